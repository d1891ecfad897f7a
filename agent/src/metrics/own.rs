//! `muster_agent`: what the agent itself costs, and how its link and its outbox are.
//!
//! The counters come from the caller; nothing here knows the outbox or the network.

use std::fs;

use muster_schemas::metrics::Point;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::source::{CollectError, Files};
use super::swap::page_size;
use super::value::hundredths;
use crate::local::{Cause, Counts};

const STATM: &str = "proc/self/statm";

/// What the agent's other parts count; totals are since the agent's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentCounters {
    /// Events in the outbox that are not in the log yet.
    pub outbox_events: u64,
    /// Their size in bytes.
    pub outbox_bytes: u64,
    /// Events that the full outbox had to drop, in total.
    pub outbox_dropped: u64,
    /// Metric batches that wait to be sent.
    pub backlog_batches: u64,
    /// Their size in bytes.
    pub backlog_bytes: u64,
    /// Batches that the full backlog had to drop, in total.
    pub backlog_dropped: u64,
    /// Events that the log has confirmed, in total.
    pub events_acked: u64,
    /// Metric batches that were sent, in total.
    pub batches_sent: u64,
    /// Connections after the first one, in total.
    pub reconnects: u64,
    /// This device's clock minus the server's, in microseconds; 0 while not known.
    pub clock_skew_us: i64,
    /// Seconds since the connection was made; 0 without one.
    pub connected_seconds: u64,
    /// Bytes that were sent, in total.
    pub bytes_out: u64,
    /// Bytes that were received, in total.
    pub bytes_in: u64,
    /// The last round trip to the broker, in microseconds; 0 while not known.
    pub rtt_us: u64,
    /// What applications wrote.
    pub local: Counts,
}

/// Remembers nothing.
pub(super) struct Own;

impl Own {
    pub(super) fn collect(
        &mut self,
        files: &mut Files,
        agent: &AgentCounters,
        sample_us: u64,
    ) -> Result<Point, CollectError> {
        let pages = files
            .text(STATM)?
            .split_ascii_whitespace()
            .nth(1)
            .and_then(|word| word.parse::<u64>().ok());
        let rss = pages
            .map(|pages| pages.saturating_mul(page_size()))
            .ok_or_else(|| files.garbled(STATM, "the resident set in pages"))?;
        let usage = getrusage(UsageWho::RUSAGE_SELF).map_err(|error| CollectError::Call {
            what: "the agent's own CPU time",
            source: error.into(),
        })?;
        let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        // The folder that is being listed is itself open.
        let open = fs::read_dir(files.path("proc/self/fd"))
            .map(|entries| entries.count().saturating_sub(1))
            .ok()
            .and_then(|count| u64::try_from(count).ok());

        let mut point = Point::new("muster_agent")
            .field("rss", rss)
            .field("cpu_seconds", hundredths(cpu as f64 / 1e6))
            .field("sample_us", sample_us)
            .field("outbox_events", agent.outbox_events)
            .field("outbox_bytes", agent.outbox_bytes)
            .field("outbox_dropped", agent.outbox_dropped)
            .field("backlog_batches", agent.backlog_batches)
            .field("backlog_bytes", agent.backlog_bytes)
            .field("backlog_dropped", agent.backlog_dropped)
            .field("events_acked", agent.events_acked)
            .field("batches_sent", agent.batches_sent)
            .field("reconnects", agent.reconnects)
            .field("clock_skew_us", agent.clock_skew_us)
            .field("connected_seconds", agent.connected_seconds)
            .field("bytes_out", agent.bytes_out)
            .field("bytes_in", agent.bytes_in);
        if agent.rtt_us > 0 {
            point = point.field("rtt_us", agent.rtt_us);
        }
        if let Some(open) = open {
            point = point.field("open_fds", open);
        }
        Ok(point)
    }
}

/// `muster_agent_local`: what applications wrote, and what of it was dropped and why; `None` while
/// nobody has written anything.
pub(super) fn local(counts: &Counts) -> Option<Point> {
    if counts.taken == 0 && counts.dropped_in_all() == 0 {
        return None;
    }
    let point = Point::new("muster_agent_local")
        .field("points", counts.taken)
        .field("series", counts.series)
        .field("tags_left_out", counts.left_out);
    Some(
        Cause::ALL
            .into_iter()
            .fold(point, |point, cause| point.field(cause.as_field(), counts.dropped_for(cause))),
    )
}
