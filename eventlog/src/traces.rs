//! The way of one event as spans: from whoever recorded it into the log, and on into read models.
//!
//! What belongs to one event is found without handing anything along: the trace's id follows from the
//! event's place, which device, ingest, log and projections all know. Nobody is asked here where
//! spans go; whoever wants them listens to [`TARGET`].

use std::fmt::Write as _;
use std::time::SystemTime;

use muster_schemas::{ProjectId, StreamName, Timestamp};
use sha2::{Digest, Sha256};
use tracing::Level;

use crate::append::{AppendError, Appended, Batch, Expected};
use crate::read::StoredEvent;

/// The target of the `tracing` events that are spans.
pub const TARGET: &str = "muster_traces";

/// The name of the span that the others of an event hang on.
pub const ROOT: &str = "event";

/// Does anybody listen? Asked first: otherwise nothing is to be spent on spans.
#[must_use]
pub fn is_wanted() -> bool {
    tracing::enabled!(target: TARGET, Level::TRACE)
}

/// The id of an event's trace, 32 hexadecimal digits: SHA-256 of `project/stream/version`, cut.
#[must_use]
pub fn trace_id(project: &ProjectId, stream: &StreamName, version: u64) -> String {
    let digest = Sha256::digest(format!("{project}/{stream}/{version}"));
    digest.iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One span of an event's way.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// What was done.
    pub name: &'a str,
    /// When that began.
    pub start: Timestamp,
    /// When it was done.
    pub end: Timestamp,
    /// What more is to be told: the event's type, the read model.
    pub detail: &'a str,
}

impl Span<'_> {
    /// Tells it to whoever listens.
    pub fn tell(&self, project: &ProjectId, stream: &StreamName, version: u64) {
        tracing::trace!(
            target: TARGET,
            trace = trace_id(project, stream, version),
            name = self.name,
            start = self.start.micros(),
            end = self.end.micros(),
            detail = self.detail,
            project = project.as_str(),
            stream = %stream,
            version,
        );
    }
}

/// Now, as spans say it.
#[must_use]
pub fn now() -> Timestamp {
    SystemTime::now().into()
}

/// The events of a batch that is being appended: place, type, when it happened.
pub(crate) struct Appending {
    began: Timestamp,
    appends: Vec<Vec<(StreamName, u64, &'static str, Timestamp)>>,
}

impl Appending {
    /// Notes what is needed for spans; nothing when nobody wants any.
    pub(crate) fn of(batch: &Batch) -> Option<Self> {
        if !is_wanted() {
            return None;
        }
        let appends = batch.appends.iter().map(|append| {
            let of_stream = append.streams.iter().flat_map(|part| {
                let after = match part.expected {
                    Expected::Version(version) | Expected::Tip { version, .. } => Some(version),
                    // Where it goes is known to the appender alone.
                    Expected::Any => None,
                };
                let events = after.into_iter().flat_map(|after| (after + 1..).zip(&part.events));
                events.map(|(version, event)| {
                    (part.stream.clone(), version, event.kind, event.occurred_at)
                })
            });
            of_stream.collect()
        });
        Some(Self { began: now(), appends: appends.collect() })
    }

    /// Tells the spans of those that are in the log now: the whole way until here, and the append.
    pub(crate) fn tell(self, project: &ProjectId, results: &[Result<Appended, AppendError>]) {
        let end = now();
        for (events, result) in self.appends.into_iter().zip(results) {
            if result.is_err() {
                continue;
            }
            for (stream, version, kind, occurred_at) in events {
                // A device's clock may be ahead.
                let start = occurred_at.min(end);
                let way = Span { name: ROOT, start, end, detail: kind };
                way.tell(project, &stream, version);
                let append = Span { name: "append", start: self.began, end, detail: kind };
                append.tell(project, &stream, version);
            }
        }
    }
}

/// Tells that a read model has these events now.
pub(crate) fn projected(
    project: &ProjectId,
    projection: &str,
    began: Timestamp,
    events: &[StoredEvent],
) {
    if !is_wanted() {
        return;
    }
    let span = Span { name: "project", start: began, end: now(), detail: projection };
    for event in events {
        span.tell(project, &event.stream, event.stream_version);
    }
}
