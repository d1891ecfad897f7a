//! `muster_agent`: resource usage of the agent itself, and the state of its connection and outbox.
//!
//! The caller passes the counters.

use std::fs;

use muster_schemas::metrics::Point;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::source::{CollectError, Files};
use super::swap::page_size;
use super::value::hundredths;

const STATM: &str = "proc/self/statm";

/// Counters of the agent's other parts; totals are since the agent's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentCounters {
    /// Number of events in the outbox that are not in the log yet.
    pub outbox_events: u64,
    /// Size of these events, in bytes.
    pub outbox_bytes: u64,
    /// Total number of events that were dropped because the outbox was full.
    pub outbox_dropped: u64,
    /// Number of metric batches that wait to be sent.
    pub backlog_batches: u64,
    /// Size of these batches, in bytes.
    pub backlog_bytes: u64,
    /// Total number of batches that were dropped because the backlog was full.
    pub backlog_dropped: u64,
    /// Total number of events that the log has confirmed.
    pub events_acked: u64,
    /// Total number of metric batches that were sent.
    pub batches_sent: u64,
    /// Total number of connections after the first one.
    pub reconnects: u64,
    /// This device's clock minus the server's, in microseconds; 0 while unknown.
    pub clock_skew_us: i64,
    /// Seconds since the connection was made; 0 without one.
    pub connected_seconds: u64,
    /// Total number of bytes that were sent.
    pub bytes_out: u64,
    /// Total number of bytes that were received.
    pub bytes_in: u64,
    /// The last round-trip time to the broker, in microseconds; 0 while unknown.
    pub rtt_us: u64,
}

/// Stateless.
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
            .ok_or_else(|| files.malformed(STATM, "the resident set in pages"))?;
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
