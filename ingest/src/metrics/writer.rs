//! Writes one batch by the store's rules until the fate of each line is decided.
//!
//! | the store says | what is done |
//! |---|---|
//! | 2xx | written |
//! | 429, 503 | sent again after `Retry-After`, or the backoff |
//! | other 5xx, no answer | sent again after the backoff |
//! | 401, 403, 404 … | the same, loudly: it is configuration; a missing v1 database is created |
//! | 413 | sent in halves; a single line that is too large is rejected |
//! | 400, 422 | the bad lines are isolated and rejected, the others are written |
//!
//! | 400 of a project's own place: older than its retention | left out and counted; the store has taken the others |
//!
//! Lines are sent again without fear: a point that is written twice is one point.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::future::join_all;
use muster_schemas::Retention;

use super::answer::Answer;
use super::backoff::Backoff;
use super::batcher::{Batch, Entry};
use super::blame::{self, Blame};
use super::client::InfluxClient;
use super::counters::{SinkCounters, add, sub};
use super::places::Place;
use super::sink::{Outcome, RejectedLine, SinkSettings};
use crate::counters::past_retention;

/// A store that cannot be written to is complained about once in this time, by all writers.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);
/// So much of the store's words is kept with a rejected line, in characters.
const MAX_REASON: usize = 500;

/// An answer that sending the same lines again would not change.
enum Verdict {
    Written,
    TooLarge(String),
    Refused(String),
}

/// One line and the index of its message in the batch.
#[derive(Clone, Copy)]
struct Line<'a> {
    entry: usize,
    text: &'a str,
}

pub(super) struct Writer {
    client: Arc<InfluxClient>,
    first_wait: Duration,
    longest_wait: Duration,
    counters: Arc<SinkCounters>,
    /// When the store was last complained about; `None` while it works.
    complained: Mutex<Option<Instant>>,
}

impl Writer {
    pub(super) fn new(
        client: Arc<InfluxClient>,
        settings: &SinkSettings,
        counters: Arc<SinkCounters>,
    ) -> Self {
        Self {
            client,
            first_wait: settings.first_wait,
            longest_wait: settings.longest_wait,
            counters,
            complained: Mutex::new(None),
        }
    }

    /// Writes a batch and tells everyone who waits what became of their lines. What goes to one place
    /// does not wait for what goes to another.
    pub(super) async fn write(&self, batch: Batch) {
        let _flight = Flight::new(&self.counters);
        let parts = batch.by_place();
        join_all(parts.into_iter().map(|(place, part)| self.write_part(place, part))).await;
    }

    async fn write_part(&self, place: Place, batch: Batch) {
        let mut body = Vec::with_capacity(batch.bytes);
        for entry in &batch.entries {
            body.extend_from_slice(entry.lines.as_str().as_bytes());
        }
        let mut rejected: Vec<Vec<RejectedLine>> = Vec::new();
        match self.deliver(&place, body).await {
            Verdict::Written => {}
            verdict => {
                rejected.resize_with(batch.entries.len(), Vec::new);
                self.isolate(&place, &batch.entries, verdict, &mut rejected).await;
            }
        }
        let mut rejected = rejected.into_iter();
        for entry in batch.entries {
            self.finish(entry, rejected.next().unwrap_or_default());
        }
    }

    fn finish(&self, entry: Entry, rejected: Vec<RejectedLine>) {
        let refused = rejected.len();
        add(&self.counters.lines_rejected, refused as u64);
        add(&self.counters.lines_written, entry.lines.count().saturating_sub(refused) as u64);
        let outcome = if rejected.is_empty() {
            add(&self.counters.messages_written, 1);
            Outcome::Written
        } else {
            add(&self.counters.messages_rejected, 1);
            Outcome::Rejected(rejected)
        };
        drop(entry.held);
        // Nobody may want to know.
        let _ = entry.done.send(outcome);
    }

    /// Sends the lines in ever smaller parts until each one is written or rejected.
    async fn isolate(
        &self,
        place: &Place,
        entries: &[Entry],
        first: Verdict,
        rejected: &mut [Vec<RejectedLine>],
    ) {
        let all: Vec<Line<'_>> = entries
            .iter()
            .enumerate()
            .flat_map(|(entry, e)| e.lines.as_str().lines().map(move |text| Line { entry, text }))
            .filter(|line| !line.text.is_empty())
            .collect();
        let mut open = vec![(all, Some(first))];
        while let Some((lines, verdict)) = open.pop() {
            let verdict = match verdict {
                Some(verdict) => verdict,
                None => self.deliver(place, body_of(&lines)).await,
            };
            let (words, halve) = match verdict {
                Verdict::Written => continue,
                Verdict::TooLarge(words) => (words, true),
                Verdict::Refused(words) => (words, false),
            };
            let mut reject = |line: &Line<'_>, reason: &str| {
                let reason = reason.chars().take(MAX_REASON).collect();
                rejected[line.entry].push(RejectedLine { line: line.text.to_owned(), reason });
            };
            // All are bad when there is but one, and when the store says that it dropped so many.
            if lines.len() <= 1 || (!halve && blame::dropped(&words) == Some(lines.len())) {
                lines.iter().for_each(|line| reject(line, &words));
                continue;
            }
            add(&self.counters.splits, 1);
            let texts: Vec<&str> = lines.iter().map(|line| line.text).collect();
            let (left, right) = match blame::blame(&words, &texts) {
                _ if halve => in_halves(lines),
                Blame::Quoted(bad) => {
                    bad.iter().for_each(|(index, reason)| reject(&lines[*index], reason));
                    let (good, _) = part(lines, |index| {
                        bad.binary_search_by_key(&index, |(bad, _)| *bad).is_err()
                    });
                    (good, Vec::new())
                }
                Blame::Suspects(suspects) if suspects.len() < lines.len() => {
                    part(lines, |index| suspects.binary_search(&index).is_err())
                }
                Blame::Suspects(_) | Blame::Nobody => in_halves(lines),
            };
            for part in [right, left] {
                if !part.is_empty() {
                    open.push((part, None));
                }
            }
        }
    }
}

/// Does a store say that points are older than it keeps them? It has taken the others then.
fn is_past(words: &str) -> bool {
    words.contains("beyond retention policy") || words.contains("outside retention policy")
}

/// Parts lines by a rule on their index: those that fit it, and the others.
fn part(lines: Vec<Line<'_>>, fits: impl Fn(usize) -> bool) -> (Vec<Line<'_>>, Vec<Line<'_>>) {
    let (left, right): (Vec<_>, Vec<_>) =
        lines.into_iter().enumerate().partition(|(index, _)| fits(*index));
    let bare = |part: Vec<(usize, _)>| part.into_iter().map(|(_, line)| line).collect();
    (bare(left), bare(right))
}

fn in_halves(mut lines: Vec<Line<'_>>) -> (Vec<Line<'_>>, Vec<Line<'_>>) {
    let right = lines.split_off(lines.len() / 2);
    (lines, right)
}

fn body_of(lines: &[Line<'_>]) -> Vec<u8> {
    let mut body = Vec::with_capacity(lines.iter().map(|line| line.text.len() + 1).sum());
    for line in lines {
        body.extend_from_slice(line.text.as_bytes());
        body.push(b'\n');
    }
    body
}

impl Writer {
    /// Sends a body until the store gives a verdict on it. Does not end while there is none.
    async fn deliver(&self, place: &Place, body: Vec<u8>) -> Verdict {
        let client = Arc::clone(&self.client);
        // Compression is CPU-bound. The task cannot be canceled, and a panic in it is a bug.
        let packed = tokio::task::spawn_blocking(move || client.pack(body)).await;
        let Ok(body) = packed else {
            return Verdict::Refused("the lines could not be compressed".to_owned());
        };
        let mut backoff = Backoff::new(self.first_wait, self.longest_wait);
        let mut is_made = false;
        loop {
            add(&self.counters.requests, 1);
            add(&self.counters.bytes_sent, body.len() as u64);
            let (asked, words) = match self.client.write_to(place, body.clone()).await {
                Answer::Written => {
                    self.recovered();
                    return Verdict::Written;
                }
                Answer::TooLarge(words) => return Verdict::TooLarge(words),
                Answer::Refused(words) if *place != Place::Shared && is_past(&words) => {
                    past_retention(blame::dropped(&words).unwrap_or(0));
                    self.recovered();
                    return Verdict::Written;
                }
                Answer::Refused(words) => return Verdict::Refused(words),
                Answer::Busy { after, words } => (after, words),
                Answer::Unavailable(words) => (None, words),
                Answer::DatabaseMissing(words) => match self.make(place).await {
                    Ok(()) if !std::mem::replace(&mut is_made, true) => {
                        tracing::info!(
                            store = self.client.address(),
                            ?place,
                            "made what was missing"
                        );
                        continue;
                    }
                    Ok(()) => (None, words),
                    Err(why) => (None, format!("{words}; creating it failed: {why}")),
                },
                Answer::Misconfigured(words) => {
                    (None, format!("{words}; check the settings of the metric store"))
                }
            };
            self.complain(&words);
            add(&self.counters.retries, 1);
            tokio::time::sleep(backoff.wait(asked, rand::random())).await;
        }
    }

    /// Makes a place that is not there (any more).
    async fn make(&self, place: &Place) -> Result<(), String> {
        match place {
            Place::Shared => self.client.create_database().await,
            Place::Own { policy, days } => {
                let kept = self.client.keep(policy, Retention::Days(*days)).await;
                kept.map_err(|error| error.to_string())
            }
        }
    }

    fn complain(&self, words: &str) {
        let mut complained =
            self.complained.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if complained.is_none_or(|when| when.elapsed() >= COMPLAIN_EVERY) {
            *complained = Some(Instant::now());
            tracing::warn!(
                store = self.client.address(),
                "the metric store does not take what is written: {words}; metrics wait and nothing is dropped"
            );
        }
    }

    fn recovered(&self) {
        let mut complained =
            self.complained.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if complained.take().is_some() {
            tracing::info!(store = self.client.address(), "the metric store takes metrics again");
        }
    }
}

/// Counts a batch as being in flight, also when its task is aborted.
struct Flight<'a>(&'a SinkCounters);

impl<'a> Flight<'a> {
    fn new(counters: &'a SinkCounters) -> Self {
        add(&counters.requests_in_flight, 1);
        Self(counters)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        sub(&self.0.requests_in_flight, 1);
    }
}
