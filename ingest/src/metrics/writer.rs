//! Writes one batch until the outcome of each line is decided.
//!
//! | response of the store | reaction |
//! |---|---|
//! | 2xx | written |
//! | 429, 503 | sent again after `Retry-After`, or the backoff |
//! | other 5xx, no response | sent again after the backoff; after some failures see below |
//! | 401, 403, 404 … | the same: the configuration is wrong; a missing database is created |
//! | 413 | sent in halves; a single line that is too large is rejected |
//! | 400, 422 | the bad lines are isolated and rejected, the others are written |
//! | 400 of a project's own bucket: past its retention | counted; the others are accepted |
//!
//! After [`FAILURES_BEFORE_PROBE`] consecutive failures of a body the writer sends a probe: one
//! point of muster's own to the same bucket. If the store accepts the probe, the body is sent
//! again; if the body fails again and the store accepts another probe, the body itself is the
//! cause: it is sent in halves until the failing lines are alone, and these are rejected. If the
//! store does not accept the probe either, nothing is dropped and the body waits.
//!
//! Sending lines again is safe: a point that is written twice is one point.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::future::join_all;
use muster_metric_store::{
    BadLines, InfluxClient, MetricBucket, StoreError, WriteResponse, dropped_points,
    find_bad_lines, is_past_retention,
};
use muster_schemas::Timestamp;
use parking_lot::Mutex;

use super::backoff::Backoff;
use super::batch::{Batch, Entry, Outcome, RejectedLine};
use super::counters::{SinkCounters, add, sub};
use super::drop_reason::DropReason;
use super::sink_settings::SinkSettings;
use crate::counters::points_dropped;

/// Minimum interval between warnings about an unusable store, of all writers together.
const WARN_INTERVAL: Duration = Duration::from_secs(30);
/// Consecutive failures of one body before a probe decides whether the body or the store is the
/// cause.
const FAILURES_BEFORE_PROBE: u32 = 4;
/// Maximum number of requests that isolate the bad lines of a batch. After these, each message is
/// sent separately, and lines that the store refuses of it are not isolated further: a message of
/// 10,000 alternating good and bad lines would cost 20,000 requests.
const MAX_ISOLATION_REQUESTS: usize = 64;
/// The measurement of probes.
pub(super) const PROBE: &str = "muster_store_probe";
/// Maximum length of the store's reason that is stored with a rejected line, in characters.
const MAX_REASON_CHARS: usize = 500;

/// A result that sending the same lines again would not change.
enum Verdict {
    Written,
    TooLarge(String),
    Refused(String),
    /// The store fails on this body, and accepts others.
    Failing(String),
}

/// One line of a batch's text, and the index of its message.
#[derive(Clone)]
struct Line {
    entry: usize,
    range: Range<usize>,
}

/// The lines of a batch: all in one text that can be shared with another thread.
struct BatchText {
    text: Arc<str>,
    lines: Vec<Line>,
}

impl BatchText {
    fn from_entries(entries: &[Entry]) -> Self {
        let mut text = String::new();
        let mut lines = Vec::new();
        for (entry, of) in entries.iter().enumerate() {
            for line in of.lines.as_str().lines().filter(|line| !line.is_empty()) {
                let start = text.len();
                text.push_str(line);
                lines.push(Line { entry, range: start..text.len() });
            }
        }
        Self { text: text.into(), lines }
    }
}

pub(super) struct Writer {
    client: Arc<InfluxClient>,
    first_delay: Duration,
    max_delay: Duration,
    counters: Arc<SinkCounters>,
    /// Time of the last warning about the store; `None` while it works.
    warned_at: Mutex<Option<Instant>>,
}

impl Writer {
    pub(super) fn new(
        client: Arc<InfluxClient>,
        settings: &SinkSettings,
        counters: Arc<SinkCounters>,
    ) -> Self {
        Self {
            client,
            first_delay: settings.first_delay,
            max_delay: settings.max_delay,
            counters,
            warned_at: Mutex::new(None),
        }
    }

    /// Writes a batch and sends each message's outcome to its submitter. The buckets of a batch are
    /// written concurrently and do not wait for each other.
    pub(super) async fn write(&self, batch: Batch) {
        let _flight = InFlight::new(&self.counters);
        let parts = batch.by_bucket();
        join_all(parts.into_iter().map(|(bucket, part)| self.write_part(bucket, part))).await;
    }

    async fn write_part(&self, bucket: MetricBucket, batch: Batch) {
        let mut body = Vec::with_capacity(batch.bytes);
        for entry in &batch.entries {
            body.extend_from_slice(entry.lines.as_str().as_bytes());
        }
        let mut rejected: Vec<Vec<RejectedLine>> = Vec::new();
        match self.deliver(&bucket, body).await {
            Verdict::Written => {}
            verdict => {
                rejected.resize_with(batch.entries.len(), Vec::new);
                self.isolate(&bucket, &batch.entries, verdict, &mut rejected).await;
            }
        }
        let mut rejected = rejected.into_iter();
        for entry in batch.entries {
            self.finish(entry, rejected.next().unwrap_or_default());
        }
    }

    fn finish(&self, entry: Entry, rejected: Vec<RejectedLine>) {
        let rejected_lines = rejected.len();
        add(&self.counters.lines_rejected, rejected_lines as u64);
        add(
            &self.counters.lines_written,
            entry.lines.count().saturating_sub(rejected_lines) as u64,
        );
        let outcome = if rejected.is_empty() {
            add(&self.counters.messages_written, 1);
            Outcome::Written
        } else {
            add(&self.counters.messages_rejected, 1);
            Outcome::Rejected(rejected)
        };
        drop(entry.held_bytes);
        // The submitter may have dropped its side.
        let _ = entry.outcome.send(outcome);
    }

    /// Sends the lines in ever smaller parts until each one is written or rejected.
    async fn isolate(
        &self,
        bucket: &MetricBucket,
        entries: &[Entry],
        first: Verdict,
        rejected: &mut [Vec<RejectedLine>],
    ) {
        let BatchText { text, lines: all } = BatchText::from_entries(entries);
        let mut open = vec![(all, Some(first))];
        let mut requests = 0;
        while let Some((lines, verdict)) = open.pop() {
            let verdict = match verdict {
                Some(verdict) => verdict,
                None => {
                    requests += 1;
                    self.deliver(bucket, body_of(&text, &lines)).await
                }
            };
            if requests == MAX_ISOLATION_REQUESTS {
                // From here on each message is sent separately.
                requests += 1;
                let rest = std::iter::once(lines).chain(open.drain(..).map(|(lines, _)| lines));
                open = by_message(rest.flatten()).into_iter().map(|part| (part, None)).collect();
                continue;
            }
            let is_coarse = requests > MAX_ISOLATION_REQUESTS;
            let (detail, halve) = match verdict {
                Verdict::Written => continue,
                Verdict::TooLarge(detail) => (detail, true),
                Verdict::Failing(detail) => (detail, !is_coarse),
                Verdict::Refused(detail) => (detail, false),
            };
            let mut reject = |line: &Line, reason: &str| {
                let reason = reason.chars().take(MAX_REASON_CHARS).collect();
                let line_text = text[line.range.clone()].to_owned();
                rejected[line.entry].push(RejectedLine { line: line_text, reason });
            };
            // All lines are bad if there is only one, or if the store reports that it dropped all.
            // Of a message that reached the limit of requests, the store has accepted the good
            // lines.
            let are_all_bad = is_coarse || dropped_points(&detail) == Some(lines.len());
            if lines.len() <= 1 || (!halve && are_all_bad) {
                lines.iter().for_each(|line| reject(line, &detail));
                continue;
            }
            add(&self.counters.splits, 1);
            let bad = if halve {
                BadLines::Unknown
            } else {
                find_bad_lines_in(detail, &text, &lines).await
            };
            let (left, right) = split(lines, bad, reject);
            for part in [right, left] {
                if !part.is_empty() {
                    open.push((part, None));
                }
            }
        }
    }
}

/// Determines which lines the store refuses. The texts are large and come from devices, so this
/// runs outside the runtime's own threads.
async fn find_bad_lines_in(message: String, text: &Arc<str>, lines: &[Line]) -> BadLines {
    let text = Arc::clone(text);
    let ranges: Vec<Range<usize>> = lines.iter().map(|line| line.range.clone()).collect();
    let work = tokio::task::spawn_blocking(move || {
        let texts: Vec<&str> = ranges.into_iter().map(|range| &text[range]).collect();
        find_bad_lines(&message, &texts)
    });
    // The task cannot be canceled, and a panic in it is a bug: in that case the lines are halved.
    work.await.unwrap_or(BadLines::Unknown)
}

/// Rejects the lines that the store quoted as bad; splits the others, if it did not.
fn split(
    lines: Vec<Line>,
    bad: BadLines,
    mut reject: impl FnMut(&Line, &str),
) -> (Vec<Line>, Vec<Line>) {
    match bad {
        BadLines::Quoted(bad) => {
            bad.iter().for_each(|(index, reason)| reject(&lines[*index], reason));
            let is_good = |index| bad.binary_search_by_key(&index, |(bad, _)| *bad).is_err();
            (part(lines, is_good).0, Vec::new())
        }
        BadLines::Suspects(suspects) if suspects.len() < lines.len() => {
            part(lines, |index| suspects.binary_search(&index).is_err())
        }
        BadLines::Suspects(_) | BadLines::Unknown => in_halves(lines),
    }
}

/// Splits lines by a predicate on their index: those that fulfill it, and the others.
fn part(lines: Vec<Line>, fits: impl Fn(usize) -> bool) -> (Vec<Line>, Vec<Line>) {
    let (left, right): (Vec<_>, Vec<_>) =
        lines.into_iter().enumerate().partition(|(index, _)| fits(*index));
    let bare = |part: Vec<(usize, _)>| part.into_iter().map(|(_, line)| line).collect();
    (bare(left), bare(right))
}

/// Groups lines by their message.
fn by_message(lines: impl Iterator<Item = Line>) -> Vec<Vec<Line>> {
    let mut messages: BTreeMap<usize, Vec<Line>> = BTreeMap::new();
    for line in lines {
        messages.entry(line.entry).or_default().push(line);
    }
    messages.into_values().collect()
}

fn in_halves(mut lines: Vec<Line>) -> (Vec<Line>, Vec<Line>) {
    let right = lines.split_off(lines.len() / 2);
    (lines, right)
}

fn body_of(text: &str, lines: &[Line]) -> Vec<u8> {
    let mut body = Vec::with_capacity(lines.iter().map(|line| line.range.len() + 1).sum());
    for line in lines {
        body.extend_from_slice(text[line.range.clone()].as_bytes());
        body.push(b'\n');
    }
    body
}

impl Writer {
    /// Sends a body until there is a verdict on it; otherwise it never returns.
    async fn deliver(&self, bucket: &MetricBucket, body: Vec<u8>) -> Verdict {
        let client = Arc::clone(&self.client);
        // Compression is CPU-bound. The task cannot be canceled, and a panic in it is a bug.
        let packed = tokio::task::spawn_blocking(move || client.pack(body)).await;
        let Ok(body) = packed else {
            return Verdict::Refused("failed to compress the lines".to_owned());
        };
        let mut backoff = Backoff::new(self.first_delay, self.max_delay);
        let mut is_made = false;
        let (mut failures, mut is_probed) = (0, false);
        loop {
            add(&self.counters.requests, 1);
            add(&self.counters.bytes_sent, body.len() as u64);
            let (retry_after, reason) = match self.client.write_to(bucket, body.clone()).await {
                WriteResponse::Written => {
                    self.recovered();
                    return Verdict::Written;
                }
                WriteResponse::TooLarge(reason) => return Verdict::TooLarge(reason),
                WriteResponse::Refused(reason)
                    if *bucket != MetricBucket::Shared && is_past_retention(&reason) =>
                {
                    let points = dropped_points(&reason).unwrap_or(0);
                    points_dropped(DropReason::PastRetention.as_str(), points);
                    self.recovered();
                    return Verdict::Written;
                }
                WriteResponse::Refused(reason) => return Verdict::Refused(reason),
                WriteResponse::Busy { after, message: reason } => (after, reason),
                WriteResponse::Unavailable(reason) => {
                    failures += 1;
                    // Two probes with a failure between them: after one, the store may have
                    // recovered in the meantime, and would accept the body now.
                    let is_due = is_probed || failures % FAILURES_BEFORE_PROBE == 0;
                    let took_probe = is_due && self.accepts_probe(bucket).await;
                    if took_probe && is_probed {
                        self.recovered();
                        return Verdict::Failing(reason);
                    }
                    is_probed = took_probe;
                    if is_probed {
                        continue;
                    }
                    (None, reason)
                }
                WriteResponse::DatabaseMissing(reason) => match self.create_bucket(bucket).await {
                    Ok(()) if !std::mem::replace(&mut is_made, true) => continue,
                    Ok(()) => (None, reason),
                    Err(error) => {
                        (None, format!("{reason}; creating it failed: {}", error.reason()))
                    }
                },
                WriteResponse::Misconfigured(reason) => {
                    (None, format!("{reason}; check the settings of the metric store"))
                }
            };
            self.warn_unusable(&reason);
            add(&self.counters.retries, 1);
            tokio::time::sleep(backoff.next_delay(retry_after, rand::random())).await;
        }
    }

    /// Whether the store accepts one point that is known to be good.
    async fn accepts_probe(&self, bucket: &MetricBucket) -> bool {
        let now = Timestamp::from(SystemTime::now()).micros();
        let body = self.client.pack(format!("{PROBE} probes=1i {now}\n").into_bytes());
        add(&self.counters.requests, 1);
        self.client.write_to(bucket, body).await == WriteResponse::Written
    }

    /// Creates a missing bucket.
    async fn create_bucket(&self, bucket: &MetricBucket) -> Result<(), StoreError> {
        match bucket {
            MetricBucket::Shared => self.client.create_database().await?,
            MetricBucket::Own { policy, retention } => {
                self.client.apply_retention(policy, *retention).await?;
            }
        }
        tracing::info!(store = self.client.address(), ?bucket, "created a missing bucket");
        Ok(())
    }

    fn warn_unusable(&self, message: &str) {
        let mut complained = self.warned_at.lock();
        if complained.is_none_or(|when| when.elapsed() >= WARN_INTERVAL) {
            *complained = Some(Instant::now());
            tracing::warn!(
                store = self.client.address(),
                "the metric store rejects writes: {message}; metrics wait, and none are dropped"
            );
        }
    }

    fn recovered(&self) {
        let mut complained = self.warned_at.lock();
        if complained.take().is_some() {
            tracing::info!(store = self.client.address(), "the metric store accepts metrics again");
        }
    }
}

/// Counts a batch as in flight until it is dropped, also when its task is aborted.
struct InFlight<'a>(&'a SinkCounters);

impl<'a> InFlight<'a> {
    fn new(counters: &'a SinkCounters) -> Self {
        add(&counters.requests_in_flight, 1);
        Self(counters)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        sub(&self.0.requests_in_flight, 1);
    }
}
