//! The interface of the metric store for the reader: submit lines, await their outcome.
//!
//! It holds bounded memory: [`MetricSink::submit`] waits for capacity. [`super::batcher`] gathers
//! the lines, [`super::writer`] writes them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use muster_metric_store::{InfluxClient, Lines, MetricBucket};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::batch::{Entry, HeldBytes, Outcome};
use super::batcher;
use super::counters::SinkCounters;
use super::sink_settings::SinkSettings;
use super::writer::Writer;

/// Capacity of the batcher's queue, in messages; their bytes are bounded separately.
const QUEUE_CAPACITY: usize = 4096;
/// Overhead of a message besides its lines, in bytes, so that tiny messages are bounded, too.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// The sink is stopping and accepts no lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the metric sink is stopping and accepts no more lines")]
pub struct SinkClosed;

/// Resolves to the [`Outcome`] of one message; may be dropped if the outcome is not needed.
#[derive(Debug)]
pub struct Completion(oneshot::Receiver<Outcome>);

impl Future for Completion {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.unwrap_or(Outcome::Abandoned))
    }
}

/// Submits lines to the store; cheap to clone.
#[derive(Clone, Debug)]
pub struct MetricSink {
    queue: mpsc::Sender<Entry>,
    capacity: Arc<Semaphore>,
    max_held_bytes: usize,
    counters: Arc<SinkCounters>,
}

/// The running part of a sink. If it is dropped, it continues until every [`MetricSink`] is dropped
/// and every message has an outcome.
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
        let (queue, entries) = mpsc::channel(QUEUE_CAPACITY);
        let counters = Arc::new(SinkCounters::default());
        // A semaphore has a maximum number of permits, and one acquisition is limited to 32 bits.
        let max_held =
            settings.max_held_bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let room = Arc::new(Semaphore::new(max_held));
        let (close, abandon) = (CancellationToken::new(), CancellationToken::new());
        let writer = Arc::new(Writer::new(client, &settings, Arc::clone(&counters)));
        let task =
            tokio::spawn(batcher::run(entries, writer, settings, close.clone(), abandon.clone()));
        (
            Self { queue, capacity: room, max_held_bytes: max_held, counters },
            SinkTask { task, close, abandon },
        )
    }

    /// Submits the lines of one message for the shared database; see [`Self::submit_to`].
    ///
    /// # Errors
    /// When the sink is stopping. The lines were not accepted.
    pub async fn submit(&self, lines: Lines) -> Result<Completion, SinkClosed> {
        self.submit_to(MetricBucket::Shared, lines).await
    }

    /// Submits the lines of one message for a bucket. Waits while the maximum is held: the caller
    /// stops reading from the broker meanwhile. A message larger than the maximum waits until it is
    /// the only one.
    ///
    /// # Errors
    /// When the sink is stopping. The lines were not accepted.
    pub async fn submit_to(
        &self,
        bucket: MetricBucket,
        lines: Lines,
    ) -> Result<Completion, SinkClosed> {
        let (done, completion) = oneshot::channel();
        if lines.count() == 0 {
            // The receiver exists, so this cannot fail; a message without lines is complete.
            let _ = done.send(Outcome::Written);
            return Ok(Completion(completion));
        }
        let cost = lines.bytes().saturating_add(MESSAGE_OVERHEAD_BYTES).min(self.max_held_bytes);
        let permits = u32::try_from(cost).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.capacity);
        let permit = tokio::select! {
            permit = permit.acquire_many_owned(permits) => permit.map_err(|_| SinkClosed)?,
            () = self.queue.closed() => return Err(SinkClosed),
        };
        let bytes = u64::from(permits);
        let held = HeldBytes::new(permit, bytes, Arc::clone(&self.counters));
        self.queue
            .send(Entry { bucket, lines, outcome: done, held_bytes: held })
            .await
            .map_err(|_| SinkClosed)?;
        Ok(Completion(completion))
    }

    /// The sink's counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<SinkCounters> {
        &self.counters
    }
}

impl SinkTask {
    /// Stops accepting lines, writes those that were submitted, and stops. What the store has not
    /// accepted after `limit` is abandoned. Returns whether every message was written or rejected.
    pub async fn drain(self, timeout: Duration) -> bool {
        self.close.cancel();
        let mut task = self.task;
        if tokio::time::timeout(timeout, &mut task).await.is_ok() {
            return true;
        }
        self.abandon.cancel();
        // The task ends at its next await; if it has panicked, everything is abandoned, too.
        let _ = task.await;
        false
    }
}
