//! The door of the metric store for the readers of the broker: hand lines in, learn their fate.
//!
//! Holds bounded memory: [`MetricSink::submit`] waits for room. How lines are gathered is
//! [`super::batcher`]'s, how they are written [`super::writer`]'s.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::batcher::{self, Entry};
use super::client::InfluxClient;
use super::counters::{SinkCounters, add, sub};
use super::line_protocol::Lines;
use super::places::Place;
use super::writer::Writer;

/// Messages that may wait in the batcher's queue; their bytes are bounded apart.
const QUEUE: usize = 4096;
/// What a message costs besides its lines, in bytes, so that tiny ones are bounded too.
const OVERHEAD: usize = 256;

/// How lines are gathered and how much may be held.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    /// A request holds at most this many lines (one message is never split unless it must be).
    pub max_lines: usize,
    /// A request holds at most this many bytes before compression, likewise.
    pub max_bytes: usize,
    /// A line waits at most this long for others.
    pub linger: Duration,
    /// So many requests are in flight at most.
    pub requests: usize,
    /// So many bytes of lines are held at most, waiting or in flight. What a request needs
    /// besides (its body, once plain and once compressed) comes on top, for each one in flight.
    pub max_held: usize,
    /// The first wait before a request is sent again; it doubles from there.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
}

impl Default for SinkSettings {
    fn default() -> Self {
        Self {
            max_lines: 5000,
            max_bytes: 1024 * 1024,
            linger: Duration::from_millis(100),
            requests: 3,
            max_held: 32 * 1024 * 1024,
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(10),
        }
    }
}

/// A line that the store refused for what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedLine {
    /// The line, without its end.
    pub line: String,
    /// The store's words, at most 500 characters.
    pub reason: String,
}

/// What became of the lines of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of them are in the store: acknowledge the message.
    Written,
    /// These are refused for good, the others are in the store: keep the message as a dead
    /// letter, then acknowledge it.
    Rejected(Vec<RejectedLine>),
    /// The sink stopped first; some may be in the store. Do not acknowledge: writing a point
    /// twice changes nothing.
    Abandoned,
}

/// The sink takes no more lines: it is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the metric sink is stopping and takes no more lines")]
pub struct SinkClosed;

/// Resolves to the [`Outcome`] of one message; may be dropped when nobody wants to know.
#[derive(Debug)]
pub struct Completion(oneshot::Receiver<Outcome>);

impl Future for Completion {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.unwrap_or(Outcome::Abandoned))
    }
}

/// Bytes that count against [`SinkSettings::max_held`] until dropped.
pub(super) struct Held {
    _permit: OwnedSemaphorePermit,
    bytes: u64,
    counters: Arc<SinkCounters>,
}

impl Drop for Held {
    fn drop(&mut self) {
        sub(&self.counters.bytes_held, self.bytes);
    }
}

/// Hands lines to the store; cheap to clone.
#[derive(Clone, Debug)]
pub struct MetricSink {
    queue: mpsc::Sender<Entry>,
    room: Arc<Semaphore>,
    max_held: usize,
    counters: Arc<SinkCounters>,
}

/// The sink's running side. Dropped, it goes on until every [`MetricSink`] is gone and all is
/// decided.
#[derive(Debug)]
pub struct SinkTask {
    task: JoinHandle<()>,
    close: CancellationToken,
    abandon: CancellationToken,
}

impl MetricSink {
    /// Starts a sink on this runtime.
    #[must_use]
    pub fn start(client: Arc<InfluxClient>, settings: SinkSettings) -> (Self, SinkTask) {
        let (queue, entries) = mpsc::channel(QUEUE);
        let counters = Arc::new(SinkCounters::default());
        // A semaphore's permits are limited, and one entry's to 32 bits.
        let max_held = settings.max_held.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let room = Arc::new(Semaphore::new(max_held));
        let (close, abandon) = (CancellationToken::new(), CancellationToken::new());
        let writer = Arc::new(Writer::new(client, &settings, Arc::clone(&counters)));
        let task =
            tokio::spawn(batcher::run(entries, writer, settings, close.clone(), abandon.clone()));
        (Self { queue, room, max_held, counters }, SinkTask { task, close, abandon })
    }

    /// Hands in the lines of one message, for where those of all projects go; see
    /// [`Self::submit_to`].
    ///
    /// # Errors
    /// When the sink is stopping. The lines were not taken.
    pub async fn submit(&self, lines: Lines) -> Result<Completion, SinkClosed> {
        self.submit_to(Place::Shared, lines).await
    }

    /// Hands in the lines of one message for a place. Waits while as much is held as may be: stop reading
    /// from the broker meanwhile. A message larger than all that may be held waits until it is
    /// alone.
    ///
    /// # Errors
    /// When the sink is stopping. The lines were not taken.
    pub async fn submit_to(&self, place: Place, lines: Lines) -> Result<Completion, SinkClosed> {
        let (done, completion) = oneshot::channel();
        if lines.count() == 0 {
            // Nobody waits for the other side yet, and a message without lines is done.
            let _ = done.send(Outcome::Written);
            return Ok(Completion(completion));
        }
        let cost = lines.bytes().saturating_add(OVERHEAD).min(self.max_held);
        let permits = u32::try_from(cost).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.room);
        let permit = tokio::select! {
            permit = permit.acquire_many_owned(permits) => permit.map_err(|_| SinkClosed)?,
            () = self.queue.closed() => return Err(SinkClosed),
        };
        let bytes = u64::from(permits);
        add(&self.counters.bytes_held, bytes);
        let held = Held { _permit: permit, bytes, counters: Arc::clone(&self.counters) };
        self.queue.send(Entry { place, lines, done, held }).await.map_err(|_| SinkClosed)?;
        Ok(Completion(completion))
    }

    /// The sink's counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<SinkCounters> {
        &self.counters
    }
}

impl SinkTask {
    /// Takes no more lines, writes those that were handed in, and stops. What the store has not
    /// taken after `limit` is abandoned. Says whether all was written or rejected.
    pub async fn drain(self, limit: Duration) -> bool {
        self.close.cancel();
        let mut task = self.task;
        if tokio::time::timeout(limit, &mut task).await.is_ok() {
            return true;
        }
        self.abandon.cancel();
        // It ends at its next await; were it to have panicked, all is abandoned just the same.
        let _ = task.await;
        false
    }
}
