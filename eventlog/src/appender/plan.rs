//! The decision of an append transaction, as a pure function: given where the log and its streams
//! stand, which appends go in, at which positions, with which leaves.

use std::collections::HashMap;

use muster_schemas::{Hash, ProjectId, StreamName, Timestamp};
use uuid::Uuid;

use crate::append::{Append, AppendError, Appended, Expected, NewEvent};
use crate::merkle::{Entry, Frontier};

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamState {
    pub(crate) version: u64,
    pub(crate) tip: Option<Hash>,
    pub(crate) closed: bool,
}

/// Where the log stands when the lock is held.
#[derive(Clone, Debug)]
pub(crate) struct HeadState {
    pub(crate) frontier: Frontier,
    pub(crate) recorded_at: Timestamp,
}

/// What is known of the streams that a group touches. A stream that is absent does not exist.
pub(crate) type Streams = HashMap<String, StreamState>;

/// One row of the log, ready to be written.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) position: u64,
    pub(crate) stream: &'a str,
    pub(crate) stream_version: u64,
    pub(crate) event: &'a NewEvent,
    pub(crate) append: &'a Append,
}

/// What the transaction will write.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) rows: Vec<Row<'a>>,
    /// Streams that moved, with their new state; `true` when the stream is new.
    pub(crate) moved: HashMap<&'a str, (StreamState, bool)>,
    pub(crate) appends: Vec<(Uuid, Appended)>,
    pub(crate) frontier: Frontier,
    /// An answer for each append, in order.
    pub(crate) results: Vec<Result<Appended, AppendError>>,
}

/// An append with its streams' names as text, made once.
pub(crate) type Named<'a> = (&'a Append, Vec<String>);

/// Decides the group's appends one after the other; one that is refused leaves no trace.
pub(crate) fn plan<'a>(
    project: &'a ProjectId,
    head: &HeadState,
    streams: &Streams,
    done: &HashMap<Uuid, Appended>,
    appends: &'a [Named<'a>],
) -> Plan<'a> {
    let mut plan = Plan {
        rows: Vec::new(),
        moved: HashMap::new(),
        appends: Vec::new(),
        frontier: head.frontier.clone(),
        results: Vec::with_capacity(appends.len()),
    };
    let mut done_now: HashMap<Uuid, Appended> = HashMap::new();
    for (append, names) in appends {
        let earlier = append.append_id.and_then(|id| done.get(&id).or_else(|| done_now.get(&id)));
        if let Some(earlier) = earlier {
            plan.results.push(Ok(*earlier));
            continue;
        }
        match check(&plan, streams, append, names) {
            Err(refusal) => plan.results.push(Err(refusal)),
            Ok(()) => {
                let appended = take(&mut plan, project, head, streams, append, names);
                if let Some(id) = append.append_id {
                    done_now.insert(id, appended);
                    plan.appends.push((id, appended));
                }
                plan.results.push(Ok(appended));
            }
        }
    }
    plan
}

/// Where a stream stands, counting what this group has already put on it.
fn state(plan: &Plan<'_>, streams: &Streams, name: &str) -> Option<StreamState> {
    plan.moved.get(name).map(|(state, _)| *state).or_else(|| streams.get(name).copied())
}

/// Holds every stream of an append to what was expected of it.
fn check(
    plan: &Plan<'_>,
    streams: &Streams,
    append: &Append,
    names: &[String],
) -> Result<(), AppendError> {
    for (part, name) in append.streams.iter().zip(names) {
        let state = state(plan, streams, name);
        let actual = state.map_or(0, |state| state.version);
        if state.is_some_and(|state| state.closed) {
            return Err(AppendError::Closed { stream: part.stream.clone() });
        }
        // A device's reports can only go where an enrollment has opened an epoch.
        let missing_epoch = state.is_none() && matches!(part.stream, StreamName::DeviceReport(..));
        let fits = !missing_epoch
            && match part.expected {
                Expected::Any => true,
                Expected::Version(version) => version == actual,
                Expected::Tip { version, tip } => {
                    version == actual && state.and_then(|state| state.tip) == Some(tip)
                }
            };
        if !fits {
            return Err(AppendError::Conflict {
                stream: part.stream.clone(),
                actual,
                tip: state.and_then(|state| state.tip),
            });
        }
    }
    Ok(())
}

/// Gives an append's events their positions, versions and leaves.
fn take<'a>(
    plan: &mut Plan<'a>,
    project: &'a ProjectId,
    head: &HeadState,
    streams: &Streams,
    append: &'a Append,
    names: &'a [String],
) -> Appended {
    let first = plan.frontier.size() + 1;
    for (part, name) in append.streams.iter().zip(names) {
        let before = state(plan, streams, name);
        let mut version = before.map_or(0, |state| state.version);
        for event in &part.events {
            version += 1;
            let position = plan.frontier.size() + 1;
            let entry = Entry {
                project: project.as_str(),
                position,
                recorded_at: head.recorded_at.micros(),
                stream: name,
                stream_version: version,
                kind: event.kind,
                schema_version: event.schema_version,
                occurred_at: event.occurred_at.micros(),
                actor: &append.actor,
                correlation: append.correlation,
                causation: append.causation,
                mac: event.mac,
            };
            plan.frontier.push(entry.leaf());
            plan.rows.push(Row { position, stream: name, stream_version: version, event, append });
        }
        let after = StreamState {
            version,
            tip: part.tip.or(before.and_then(|state| state.tip)),
            closed: false,
        };
        let is_new = plan.moved.get(name.as_str()).map_or(before.is_none(), |(_, new)| *new);
        plan.moved.insert(name, (after, is_new));
    }
    Appended { first, last: plan.frontier.size(), recorded_at: head.recorded_at }
}

#[cfg(test)]
mod tests;
