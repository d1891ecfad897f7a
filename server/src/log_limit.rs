//! Limits on this process's log: the rate of lines of one kind, and the length of a line. Most
//! texts in warnings come from devices and clients, which could otherwise fill the disk with them.
//!
//! A kind is a call site in the source code. Dropped lines are counted and reported once per
//! interval.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_recursion::async_recursion as boxed;
use metrics::counter;
use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Interval in which lines are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of lines of one kind per interval.
const MAX_LINES: u32 = 100;
/// Maximum length of a line, in bytes; longer lines are truncated.
const MAX_LINE_BYTES: usize = 4096;
/// Maximum length of one text in a truncated line, in characters.
const MAX_TEXT_CHARS: usize = 512;
const DROPPED_LINES: &str = "muster_log_lines_suppressed_total";

/// Counters of lines by kind; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LogLimit(Arc<Mutex<HashMap<Identifier, Kind>>>);

#[derive(Debug)]
struct Kind {
    location: String,
    since: Instant,
    lines: u32,
    dropped: u64,
}

impl LogLimit {
    /// Whether one more line of this kind may be written now.
    fn admits(&self, kind: &'static Metadata<'static>, now: Instant) -> bool {
        let mut kinds = self.0.lock();
        let kind = kinds.entry(kind.callsite()).or_insert_with(|| Kind {
            location: format!("{}:{}", kind.target(), kind.line().unwrap_or_default()),
            since: now,
            lines: 0,
            dropped: 0,
        });
        if now.saturating_duration_since(kind.since) >= COUNT_INTERVAL {
            (kind.since, kind.lines) = (now, 0);
        }
        kind.lines = kind.lines.saturating_add(1);
        let is_admitted = kind.lines <= MAX_LINES;
        kind.dropped += u64::from(!is_admitted);
        is_admitted
    }

    /// Returns the kinds with dropped lines since the last call, and their numbers.
    fn take_dropped(&self) -> Vec<(String, u64)> {
        let mut kinds = self.0.lock();
        let left_out = kinds.values_mut().filter(|kind| kind.dropped > 0);
        left_out.map(|kind| (kind.location.clone(), std::mem::take(&mut kind.dropped))).collect()
    }

    /// Reports dropped lines until the process ends.
    #[boxed]
    pub async fn report(self) {
        loop {
            tokio::time::sleep(COUNT_INTERVAL).await;
            for (location, lines) in self.take_dropped() {
                counter!(DROPPED_LINES).increment(lines);
                tracing::warn!(location, lines, "log lines from one location were suppressed");
            }
        }
    }
}

/// Formatter that writes another formatter's lines within the limit. Not a filter of the layer: one
/// that refuses single events also affects the next event (tracing-subscriber 0.3).
#[derive(Clone, Debug)]
pub struct Limited<F> {
    /// The other formatter.
    pub inner: F,
    /// The counters.
    pub limit: LogLimit,
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // RUST_LOG enables debug and trace lines only on request.
        let is_for_developers = *event.metadata().level() > Level::INFO;
        if is_for_developers || self.limit.admits(event.metadata(), Instant::now()) {
            self.inner.format_event(context, writer, event)
        } else {
            Ok(())
        }
    }
}

/// Standard error, with long lines truncated.
#[derive(Clone, Copy, Debug)]
pub struct ShortLines {
    /// Whether the lines are JSON, so that only their texts may be truncated.
    pub is_json: bool,
}

impl<'a> MakeWriter<'a> for ShortLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for ShortLines {
    /// Writes one line: the formatter passes a whole line per call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        // A dropped line is empty; writing it has no effect.
        if line.len() <= MAX_LINE_BYTES {
            stderr.write_all(line)?;
        } else {
            stderr.write_all(&truncated(line, self.is_json))?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn truncated(line: &[u8], is_json: bool) -> Vec<u8> {
    if is_json && let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(line) {
        truncate(&mut value);
        return format!("{value}\n").into_bytes();
    }
    let text = String::from_utf8_lossy(line);
    let end = text.floor_char_boundary(MAX_LINE_BYTES);
    format!("{}… ({} bytes)\n", text.get(..end).unwrap_or_default(), line.len()).into_bytes()
}

fn truncate(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(MAX_TEXT_CHARS) {
                text.truncate(end);
                text.push('…');
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(truncate),
        serde_json::Value::Object(items) => items.values_mut().for_each(truncate),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{EnvFilter, Layer};

    use super::*;

    /// Log output of a test.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_kind_of_line_is_limited() {
        let (log, limit) = (Log::default(), LogLimit::default());
        let writer = log.clone();
        let limited = limit.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .json()
            .map_event_format(|inner| Limited { inner, limit: limited })
            .with_filter(EnvFilter::new("info"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..10_000 {
                tracing::warn!(number, "provoked");
            }
            tracing::warn!("another kind");
        });
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        assert_eq!(text.matches("provoked").count(), 100);
        assert_eq!(text.matches("another kind").count(), 1);
        let left_out = limit.take_dropped();
        assert_eq!(left_out.len(), 1);
        assert_eq!(left_out[0].1, 9_900);
        assert!(limit.take_dropped().is_empty());
    }

    #[test]
    fn a_long_line_is_truncated_and_stays_well_formed() {
        let long = "é".repeat(60_000);
        let line = format!("{{\"fields\":{{\"message\":\"x\",\"method\":\"{long}\"}}}}\n");
        let short = truncated(line.as_bytes(), true);
        assert!(short.len() < 2 * MAX_TEXT_CHARS + 100, "{}", short.len());
        let value: serde_json::Value = serde_json::from_slice(&short).unwrap();
        assert_eq!(value["fields"]["message"], "x");
        let short = truncated(line.as_bytes(), false);
        assert!(short.len() < MAX_LINE_BYTES + 40 && short.ends_with(b"bytes)\n"));
    }
}
