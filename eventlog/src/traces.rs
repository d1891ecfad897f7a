//! The path of an event as spans: from its recorder into the log and into read models.
//!
//! The spans of an event need no context propagation: the trace's id is derived from the event's
//! stream and version, which device, ingest, log and projections all know. This module does not
//! export spans; an exporter subscribes to [`TARGET`].

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use muster_schemas::{ProjectId, StreamName, StreamVersion, Timestamp};
use sha2::{Digest, Sha256};
use tracing::Level;

use crate::append::{AppendError, Appended, Batch, Expected};
use crate::stored_event::StoredEvent;

/// Target of the `tracing` events that are spans.
pub const TARGET: &str = "muster_traces";

/// Name of an event's root span.
pub const ROOT: &str = "event";

/// Whether an exporter is subscribed; otherwise no work is done for spans.
#[must_use]
pub fn is_enabled() -> bool {
    tracing::enabled!(target: TARGET, Level::TRACE)
}

/// Returns the id of an event's trace, 32 hexadecimal digits: truncated SHA-256 of
/// `project/stream/version`.
#[must_use]
pub fn trace_id(project: &ProjectId, stream: &StreamName, version: StreamVersion) -> String {
    let digest = Sha256::digest(format!("{project}/{stream}/{version}"));
    digest.iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A span of an event's path.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Name of the step.
    pub name: &'a str,
    /// Start of the step.
    pub start: Timestamp,
    /// End of the step.
    pub end: Timestamp,
    /// Additional detail: the event's type, the read model.
    pub detail: &'a str,
}

impl Span<'_> {
    /// Emits the span.
    pub fn emit(&self, project: &ProjectId, stream: &StreamName, version: StreamVersion) {
        tracing::trace!(
            target: TARGET,
            trace = trace_id(project, stream, version),
            name = self.name,
            start = self.start.micros(),
            end = self.end.micros(),
            detail = self.detail,
            project = project.as_str(),
            stream = %stream,
            version = version.get(),
        );
    }
}

/// Returns the current time.
#[must_use]
pub fn now() -> Timestamp {
    SystemTime::now().into()
}

/// The events of an append in progress: stream, version, type, time.
pub(crate) struct AppendSpans {
    started_at: Timestamp,
    appends: Vec<Vec<(StreamName, StreamVersion, &'static str, Timestamp)>>,
}

impl AppendSpans {
    /// Collects the data for spans; `None` if no exporter is subscribed.
    pub(crate) fn from_batch(batch: &Batch) -> Option<Self> {
        if !is_enabled() {
            return None;
        }
        let appends = batch.appends.iter().map(|append| {
            let of_stream = append.streams.iter().flat_map(|part| {
                let after = match part.expected {
                    Expected::Version(version) | Expected::Tip { version, .. } => Some(version),
                    // Only the appender knows the version.
                    Expected::Any => None,
                };
                let events = after.into_iter().flat_map(|after| {
                    (1..).zip(&part.events).map(move |(n, event)| (after + n, event))
                });
                events.map(|(version, event)| {
                    (part.stream.clone(), version, event.kind, event.occurred_at)
                })
            });
            of_stream.collect()
        });
        Some(Self { started_at: now(), appends: appends.collect() })
    }

    /// Emits the spans of appended events: the path up to the append, and the append itself.
    pub(crate) fn emit(self, project: &ProjectId, results: &[Result<Appended, AppendError>]) {
        let end = now();
        for (events, result) in self.appends.into_iter().zip(results) {
            if result.is_err() {
                continue;
            }
            for (stream, version, kind, occurred_at) in events {
                // A device's clock may be ahead.
                let start = occurred_at.min(end);
                let way = Span { name: ROOT, start, end, detail: kind };
                way.emit(project, &stream, version);
                let append = Span { name: "append", start: self.started_at, end, detail: kind };
                append.emit(project, &stream, version);
            }
        }
    }
}

/// Emits the spans of events that a read model has applied.
pub(crate) fn emit_projected(
    project: &ProjectId,
    projection: &str,
    started_at: Timestamp,
    events: &[Arc<StoredEvent>],
) {
    if !is_enabled() {
        return;
    }
    let span = Span { name: "project", start: started_at, end: now(), detail: projection };
    for event in events {
        span.emit(project, &event.stream, event.stream_version);
    }
}
