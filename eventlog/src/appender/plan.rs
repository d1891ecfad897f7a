//! The decision of an append transaction, as a pure function: given where the log and its streams
//! stand, which appends go in, at which positions; and what their leaves make of the tree.

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
    /// Streams that moved, with their new state.
    pub(crate) moved: HashMap<&'a str, StreamState>,
    pub(crate) appends: Vec<(Uuid, Appended)>,
    /// The log's newest position with all of this in it.
    pub(crate) position: u64,
    /// An answer for each append, in order.
    pub(crate) results: Vec<Result<Appended, AppendError>>,
}

/// An append with its streams' names as text, made once.
pub(crate) type Named<'a> = (&'a Append, Vec<String>);

impl Plan<'_> {
    /// The tree's right edge with these rows in it. Apart from the decision, because PostgreSQL can
    /// take the rows while their leaves are hashed.
    pub(crate) fn frontier(&self, project: &ProjectId, head: &HeadState) -> Frontier {
        let mut frontier = head.frontier.clone();
        for row in &self.rows {
            let entry = Entry {
                project: project.as_str(),
                position: row.position,
                recorded_at: head.recorded_at.micros(),
                stream: row.stream,
                stream_version: row.stream_version,
                kind: row.event.kind,
                schema_version: row.event.schema_version,
                occurred_at: row.event.occurred_at.micros(),
                actor: &row.append.actor,
                correlation: row.append.correlation,
                causation: row.append.causation,
                mac: row.event.mac,
            };
            frontier.push(entry.leaf());
        }
        frontier
    }
}

/// Decides the group's appends one after the other; one that is refused leaves no trace.
pub(crate) fn plan<'a>(
    head: &HeadState,
    streams: &Streams,
    done: &HashMap<Uuid, Appended>,
    appends: &'a [Named<'a>],
) -> Plan<'a> {
    let mut plan = Plan {
        rows: Vec::new(),
        moved: HashMap::new(),
        appends: Vec::new(),
        position: head.frontier.size(),
        results: Vec::with_capacity(appends.len()),
    };
    let mut done_now: HashMap<Uuid, Appended> = HashMap::new();
    for (append, names) in appends {
        let earlier = append.append_id.and_then(|id| done.get(&id).or_else(|| done_now.get(&id)));
        if let Some(earlier) = earlier {
            let is_retry = earlier.belongs_to(append.request_hash);
            plan.results.push(if is_retry { Ok(*earlier) } else { Err(AppendError::IdReused) });
            continue;
        }
        match check(&plan, streams, append, names) {
            Err(refusal) => plan.results.push(Err(refusal)),
            Ok(()) => {
                let appended = take(&mut plan, head, streams, append, names);
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
    plan.moved.get(name).or_else(|| streams.get(name)).copied()
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

/// Gives an append's events their positions and versions.
fn take<'a>(
    plan: &mut Plan<'a>,
    head: &HeadState,
    streams: &Streams,
    append: &'a Append,
    names: &'a [String],
) -> Appended {
    let first = plan.position + 1;
    for (part, name) in append.streams.iter().zip(names) {
        let before = state(plan, streams, name);
        let mut version = before.map_or(0, |state| state.version);
        for event in &part.events {
            version += 1;
            plan.position += 1;
            let position = plan.position;
            plan.rows.push(Row { position, stream: name, stream_version: version, event, append });
        }
        let after = StreamState {
            version,
            tip: part.tip.or(before.and_then(|state| state.tip)),
            closed: false,
        };
        plan.moved.insert(name, after);
    }
    Appended {
        first,
        last: plan.position,
        recorded_at: head.recorded_at,
        request_hash: append.request_hash,
    }
}

#[cfg(test)]
mod tests;
