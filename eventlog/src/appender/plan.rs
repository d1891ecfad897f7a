//! The decision of an append transaction, as a pure function: given the state of the log and its
//! streams, which appends are accepted, at which positions; and the tree with their leaves.

use std::collections::HashMap;

use muster_schemas::{Hash, Position, ProjectId, StreamName, StreamVersion, Timestamp};
use uuid::Uuid;

use crate::append::{Append, AppendError, Appended, Expected, NewEvent};
use crate::merkle::{Entry, Frontier};

/// State of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamState {
    pub(crate) version: StreamVersion,
    pub(crate) tip: Option<Hash>,
    pub(crate) is_closed: bool,
}

/// State of the log under the lock.
#[derive(Clone, Debug)]
pub(crate) struct HeadState {
    pub(crate) frontier: Frontier,
    pub(crate) recorded_at: Timestamp,
}

/// State of the streams that a group appends to. A stream that is absent does not exist.
pub(crate) type Streams = HashMap<String, StreamState>;

/// One row of the log to write.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) position: Position,
    pub(crate) stream: &'a str,
    pub(crate) stream_version: StreamVersion,
    pub(crate) event: &'a NewEvent,
    pub(crate) append: &'a Append,
}

/// Content of the transaction.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) rows: Vec<Row<'a>>,
    /// New state of the streams that were appended to.
    pub(crate) updated_streams: HashMap<&'a str, StreamState>,
    pub(crate) appends: Vec<(Uuid, Appended)>,
    /// Newest position of the log after the transaction.
    pub(crate) position: Position,
    /// Result of each append, in order.
    pub(crate) results: Vec<Result<Appended, AppendError>>,
}

/// An append with its streams' names as text.
pub(crate) type Named<'a> = (&'a Append, Vec<String>);

impl Plan<'_> {
    /// Computes the tree's frontier with these rows. Separate from the decision, because PostgreSQL
    /// can receive the rows while their leaves are hashed.
    pub(crate) fn frontier(&self, project: &ProjectId, head: &HeadState) -> Frontier {
        let mut frontier = head.frontier.clone();
        for row in &self.rows {
            let entry = Entry {
                project: project.as_str(),
                position: row.position,
                recorded_at: head.recorded_at,
                stream: row.stream,
                stream_version: row.stream_version,
                kind: row.event.kind,
                schema_version: row.event.schema_version,
                occurred_at: row.event.occurred_at,
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

/// Decides the group's appends sequentially; a refused append has no effect on the others.
pub(crate) fn plan<'a>(
    head: &HeadState,
    streams: &Streams,
    committed: &HashMap<Uuid, Appended>,
    appends: &'a [Named<'a>],
) -> Plan<'a> {
    let mut plan = Plan {
        rows: Vec::new(),
        updated_streams: HashMap::new(),
        appends: Vec::new(),
        position: Position(head.frontier.size()),
        results: Vec::with_capacity(appends.len()),
    };
    let mut done_now: HashMap<Uuid, Appended> = HashMap::new();
    for (append, names) in appends {
        let earlier =
            append.append_id.and_then(|id| committed.get(&id).or_else(|| done_now.get(&id)));
        if let Some(earlier) = earlier {
            let is_retry = earlier.belongs_to(append.request_hash);
            plan.results.push(if is_retry { Ok(*earlier) } else { Err(AppendError::IdReused) });
            continue;
        }
        match check(&plan, streams, append, names) {
            Err(refusal) => plan.results.push(Err(refusal)),
            Ok(()) => {
                let appended = assign(&mut plan, head, streams, append, names);
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

/// Returns the state of a stream, including this group's earlier appends to it.
fn current_state(plan: &Plan<'_>, streams: &Streams, name: &str) -> Option<StreamState> {
    plan.updated_streams.get(name).or_else(|| streams.get(name)).copied()
}

/// Checks the preconditions of an append on all its streams.
fn check(
    plan: &Plan<'_>,
    streams: &Streams,
    append: &Append,
    names: &[String],
) -> Result<(), AppendError> {
    for (part, name) in append.streams.iter().zip(names) {
        let state = current_state(plan, streams, name);
        let actual = state.map_or(StreamVersion::ZERO, |state| state.version);
        if state.is_some_and(|state| state.is_closed) {
            return Err(AppendError::Closed { stream: part.stream.clone() });
        }
        // A device's reports need an epoch, which only an enrollment opens.
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

/// Assigns positions and versions to an append's events.
fn assign<'a>(
    plan: &mut Plan<'a>,
    head: &HeadState,
    streams: &Streams,
    append: &'a Append,
    names: &'a [String],
) -> Appended {
    let first = plan.position + 1;
    for (part, name) in append.streams.iter().zip(names) {
        let before = current_state(plan, streams, name);
        let mut version = before.map_or(StreamVersion::ZERO, |state| state.version);
        for event in &part.events {
            version += 1;
            plan.position += 1;
            let position = plan.position;
            plan.rows.push(Row { position, stream: name, stream_version: version, event, append });
        }
        let after = StreamState {
            version,
            tip: part.tip.or(before.and_then(|state| state.tip)),
            is_closed: false,
        };
        plan.updated_streams.insert(name, after);
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
