//! The reader of metric batches: from JetStream to the sink, with any number of concurrent readers.
//!
//! A batch is acknowledged when the store has it, when it is stored as a dead letter, or when its
//! device exceeds a limit. Writing a batch twice changes nothing, so nothing here has to be exactly
//! once. Dead letters are stored in groups, outside the loop: a device whose messages are refused
//! delays no other.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::{self, consumer};
use async_recursion::async_recursion as boxed;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_eventlog::{DeadLetterSource, EventLog, NewDeadLetter, StoreError};
use muster_metric_store::{Origin, encode};
use muster_schemas::errors::error_chain;
use muster_schemas::metrics::MetricBatch;
use muster_schemas::names::DeviceName;
use muster_schemas::{Timestamp, subjects};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::batch::Outcome;
use super::buckets::MetricBuckets;
use super::drop_reason::DropReason;
use super::limits::{DeviceGuard, DeviceLimits};
use super::names::{NameCache, NameLookup, ProjectDevice};
use super::pruning;
use super::series::SeriesGuard;
use super::sink::{Completion, MetricSink, SinkClosed};
use crate::streams::StreamError;
use crate::{counters, streams};

/// Maximum number of messages that are read and not acknowledged, of all readers together.
const MAX_PENDING: i64 = 8_192;
/// Maximum number of messages that one reader holds; the sink bounds the size of their lines.
const MAX_HELD_MESSAGES: usize = 2_048;
/// Maximum number of bytes that the broker sends in advance.
const MAX_PREFETCH_BYTES: usize = 8 << 20;
/// Maximum number of series of a device; the agent limits applications to a tenth of it.
const MAX_DEVICE_SERIES: usize = 10_000;
/// Maximum number of messages that wait for their device's name; others are read meanwhile.
const MAX_UNNAMED_MESSAGES: usize = 512;
/// Maximum number of dead letters in one statement.
const MAX_DEAD_LETTERS_PER_STATEMENT: usize = 128;
/// Maximum size of the messages that wait to be stored as dead letters, in bytes; above it no
/// message is read.
const MAX_DEAD_LETTER_BYTES: usize = 16 << 20;
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// What the readers of a process share.
#[derive(Debug)]
pub struct ReaderOptions {
    /// The log, for dead letters and the names of devices.
    pub log: EventLog,
    /// Destination of the lines.
    pub sink: MetricSink,
    /// Buckets of the projects.
    pub buckets: MetricBuckets,
    /// Number of replicas of the stream.
    pub copies: streams::Copies,
    /// Limits for each device.
    pub limits: DeviceLimits,
}

/// Reads metric batches until `stop`, and deletes consumed ones from the stream.
#[boxed]
pub async fn run(options: ReaderOptions, nats: async_nats::Client, stop: CancellationToken) {
    tokio::join!(read(options, nats.clone(), &stop), pruning::run(nats, stop.clone()));
}

/// Runs a reader, and restarts it after a failure.
async fn read(options: ReaderOptions, nats: async_nats::Client, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => return,
        () = options.buckets.wait_until_loaded() => {}
    }
    let mut reported = String::new();
    let reader = Reader {
        names: NameCache::start(options.log.clone()),
        series: Mutex::new(SeriesGuard::new(MAX_DEVICE_SERIES)),
        guard: Mutex::new(DeviceGuard::new(options.limits)),
        options,
    };
    while !stop.is_cancelled() {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = reader.run(&nats) => ended,
        };
        if let Err(error) = ended {
            let error = error_chain(&error);
            if error != reported {
                tracing::warn!(error, "failed to read metrics; trying again");
                reported = error;
            }
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Why a reader ended.
#[derive(Debug, thiserror::Error)]
enum ReaderError {
    #[error("the stream of metrics is unavailable")]
    Stream(#[from] StreamError),
    #[error("the broker failed")]
    Broker(#[source] async_nats::Error),
    #[error("the subscription ended")]
    SubscriptionEnded,
    #[error("device names are unavailable")]
    NamesUnavailable,
    #[error("failed to store dead letters")]
    DeadLetters(#[from] StoreError),
    #[error(transparent)]
    Sink(#[from] SinkClosed),
}

impl ReaderError {
    fn broker(error: impl Into<async_nats::Error>) -> Self {
        Self::Broker(error.into())
    }
}

struct Reader {
    options: ReaderOptions,
    names: NameCache,
    series: Mutex<SeriesGuard>,
    guard: Mutex<DeviceGuard>,
}

/// A message of a device, and the device's name; `None` for a device that does not exist.
type Named = (Arc<jetstream::Message>, ProjectDevice, Option<DeviceName>);

/// How a received message continues.
enum Received {
    Named(Named),
    /// Its device's name is being read.
    Unnamed(Arc<jetstream::Message>, ProjectDevice, oneshot::Receiver<Option<DeviceName>>),
    DeadLetter(PendingDeadLetter),
    /// It exceeded a limit, and was acknowledged.
    Dropped,
}

impl Reader {
    async fn run(&self, nats: &async_nats::Client) -> Result<(), ReaderError> {
        let mut messages = self.subscribe(nats).await?;
        let mut naming = FuturesUnordered::new();
        let mut writing = FuturesUnordered::new();
        let mut dead_letters = DeadLetterQueue::default();
        // One statement at a time; messages that are refused meanwhile go into the next.
        let mut keeping = FuturesUnordered::new();
        loop {
            if keeping.is_empty() && !dead_letters.pending.is_empty() {
                keeping.push(store_dead_letters(&self.options.log, dead_letters.take()));
            }
            let has_capacity = writing.len() + dead_letters.pending.len() < MAX_HELD_MESSAGES
                && naming.len() < MAX_UNNAMED_MESSAGES
                && dead_letters.bytes < MAX_DEAD_LETTER_BYTES;
            let received = tokio::select! {
                Some(kept) = keeping.next() => {
                    let () = kept?;
                    continue;
                }
                Some((message, outcome)) = writing.next() => {
                    if let Some(dead_letter) = finish(message, outcome).await? {
                        dead_letters.push(dead_letter);
                    }
                    continue;
                }
                Some(named) = naming.next() => {
                    let (message, who, name): (_, _, Result<_, _>) = named;
                    Received::Named((message, who, name.map_err(|_| ReaderError::NamesUnavailable)?))
                }
                next = messages.next(), if has_capacity => {
                    let message = next.ok_or(ReaderError::SubscriptionEnded)?;
                    self.receive(message.map_err(ReaderError::broker)?).await?
                }
            };
            let (message, who, name) = match received {
                Received::Named(named) => named,
                Received::Unnamed(message, who, name) => {
                    naming.push(async move { (message, who, name.await) });
                    continue;
                }
                Received::DeadLetter(dead_letter) => {
                    dead_letters.push(dead_letter);
                    continue;
                }
                Received::Dropped => continue,
            };
            match self.submit(&message, &who, name).await? {
                Submission::Submitted(completion) => {
                    writing.push(async move { (message, completion.await) });
                }
                Submission::Refused(cause, detail) => {
                    dead_letters.push(PendingDeadLetter { message, cause, detail });
                }
                Submission::Empty => acknowledge(&message).await?,
            }
        }
    }

    async fn subscribe(
        &self,
        nats: &async_nats::Client,
    ) -> Result<consumer::pull::Stream, ReaderError> {
        let jetstream = jetstream::new(nats.clone());
        let (stream, _) = streams::ensure_metrics(&jetstream, self.options.copies).await?;
        let config = consumer::pull::Config {
            durable_name: Some(streams::METRICS_CONSUMER.to_owned()),
            ack_policy: consumer::AckPolicy::Explicit,
            ack_wait: Duration::from_secs(60),
            max_ack_pending: MAX_PENDING,
            ..Default::default()
        };
        let consumer = stream.get_or_create_consumer(streams::METRICS_CONSUMER, config).await;
        consumer
            .map_err(ReaderError::broker)?
            .stream()
            .max_messages_per_batch(MAX_HELD_MESSAGES)
            .max_bytes_per_batch(MAX_PREFETCH_BYTES)
            .expires(Duration::from_secs(20))
            .heartbeat(Duration::from_secs(5))
            .messages()
            .await
            .map_err(ReaderError::broker)
    }

    /// Finds the device of a message, and applies the limits on its messages.
    async fn receive(&self, message: jetstream::Message) -> Result<Received, ReaderError> {
        let message = Arc::new(message);
        let Some((project, device, _)) = subjects::parse_stored(&message.subject) else {
            let detail = "not the subject of a device".to_owned();
            let cause = "foreign_subject";
            return Ok(Received::DeadLetter(PendingDeadLetter { message, cause, detail }));
        };
        let who = (project, device);
        let admitted = self.guard().admit(&who, received_at(&message));
        if let Err(excess) = admitted {
            counters::metric_messages_dropped(excess.as_str());
            self.report(&who, excess);
            acknowledge(&message).await?;
            return Ok(Received::Dropped);
        }
        Ok(match self.names.lookup(&who) {
            NameLookup::Cached(name) => Received::Named((message, who, name)),
            NameLookup::Pending(name) => Received::Unnamed(message, who, name),
        })
    }

    fn guard(&self) -> MutexGuard<'_, DeviceGuard> {
        self.guard.lock()
    }

    /// Logs that metrics of a device are dropped: once a day for each device and cause.
    fn report(&self, who: &ProjectDevice, reason: DropReason) {
        let is_new = self.guard().is_first_today(who, reason, SystemTime::now().into());
        if is_new {
            let (project, device) = who;
            tracing::warn!(
                %project, %device, cause = reason.as_str(),
                "metrics of the device exceed a limit and are dropped"
            );
        }
    }

    fn count_dropped(&self, who: &ProjectDevice, reason: DropReason, points: usize) {
        if points > 0 {
            counters::points_dropped(reason.as_str(), points);
            self.report(who, reason);
        }
    }

    /// Submits a message's lines to the sink; waits while the sink is full.
    async fn submit(
        &self,
        message: &jetstream::Message,
        who: &ProjectDevice,
        name: Option<DeviceName>,
    ) -> Result<Submission, ReaderError> {
        let (project, device) = (&who.0, who.1);
        let Some(name) = name else {
            let detail = format!("device {device} is unknown or was deleted");
            return Ok(Submission::Refused("unknown_device", detail));
        };
        let (mut batch, invalid) = match MetricBatch::decode_valid_points(&message.payload) {
            Ok(read) => read,
            Err(error) => return Ok(Submission::Refused("unreadable_batch", error.to_string())),
        };
        self.count_dropped(who, DropReason::Invalid, invalid.points);
        if let Some(reason) = invalid.reason
            && batch.points.is_empty()
        {
            return Ok(Submission::Refused(
                "unreadable_batch",
                format!("every point has {reason}"),
            ));
        }
        let bucket = self.options.buckets.get(project).await;
        let now = SystemTime::now().into();
        let dropped = self.guard().enforce(who, &mut batch, bucket.retention(), now);
        for (excess, points) in dropped {
            self.count_dropped(who, excess, points);
        }
        let kept = {
            let mut series = self.series.lock();
            series.enforce(who, &mut batch, Instant::now())
        };
        self.count_dropped(who, DropReason::TooManySeries, kept);
        let lines = encode(&batch, &Origin { project, device, name: name.as_str() });
        if lines.count() == 0 {
            return Ok(Submission::Empty);
        }
        self.guard().charge(who, received_at(message), lines.bytes());
        Ok(Submission::Submitted(self.options.sink.submit_to(bucket, lines).await?))
    }
}

/// The time at which the broker received a message.
fn received_at(message: &jetstream::Message) -> Timestamp {
    let micros = message
        .info()
        .ok()
        .and_then(|info| i64::try_from(info.published.unix_timestamp_nanos() / 1_000).ok());
    micros.map_or_else(|| SystemTime::now().into(), Timestamp)
}

/// A message to store as a dead letter.
struct PendingDeadLetter {
    message: Arc<jetstream::Message>,
    cause: &'static str,
    detail: String,
}

/// Dead letters that wait until the previous statement has ended.
#[derive(Default)]
struct DeadLetterQueue {
    pending: Vec<PendingDeadLetter>,
    bytes: usize,
}

impl DeadLetterQueue {
    fn push(&mut self, dead_letter: PendingDeadLetter) {
        self.bytes += dead_letter.message.payload.len();
        self.pending.push(dead_letter);
    }

    fn take(&mut self) -> Vec<PendingDeadLetter> {
        let some: Vec<PendingDeadLetter> =
            self.pending.drain(..self.pending.len().min(MAX_DEAD_LETTERS_PER_STATEMENT)).collect();
        self.bytes -=
            some.iter().map(|dead_letter| dead_letter.message.payload.len()).sum::<usize>();
        some
    }
}

enum Submission {
    Submitted(Completion),
    Refused(&'static str, String),
    Empty,
}

/// Acknowledges a written message; returns a refused one as a dead letter.
async fn finish(
    message: Arc<jetstream::Message>,
    outcome: Outcome,
) -> Result<Option<PendingDeadLetter>, ReaderError> {
    match outcome {
        Outcome::Written => acknowledge(&message).await.map(|()| None),
        Outcome::Rejected(lines) => {
            let detail = lines
                .iter()
                .take(5)
                .map(|line| format!("{}: {}", line.reason, line.line))
                .collect::<Vec<_>>()
                .join("; ");
            Ok(Some(PendingDeadLetter { message, cause: "refused_by_store", detail }))
        }
        Outcome::Abandoned => Ok(None),
    }
}

async fn acknowledge(message: &jetstream::Message) -> Result<(), ReaderError> {
    message.ack().await.map_err(ReaderError::Broker)
}

/// Stores messages as dead letters, then acknowledges them.
async fn store_dead_letters(
    log: &EventLog,
    dead_letters: Vec<PendingDeadLetter>,
) -> Result<(), ReaderError> {
    let rows: Vec<NewDeadLetter> = dead_letters
        .iter()
        .map(|PendingDeadLetter { message, cause, detail }| NewDeadLetter {
            source: DeadLetterSource::Metrics,
            project: subjects::parse_stored(&message.subject)
                .map(|(project, ..)| project.to_string()),
            subject: message.subject.to_string(),
            cause,
            detail: detail.clone(),
            bytes: message.payload.to_vec(),
        })
        .collect();
    log.store_dead_letters(&rows).await?;
    for PendingDeadLetter { message, cause, .. } in &dead_letters {
        counters::dead_letter(DeadLetterSource::Metrics, cause);
        acknowledge(message).await?;
    }
    Ok(())
}
