//! Metric batches: from JetStream to the sink, any number of readers at once.
//!
//! A batch is acknowledged when the store has it, or when it is kept as a dead letter. Writing a
//! batch twice changes nothing, so nothing here has to be exactly once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::{self, consumer};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_eventlog::{DeadLetterSource, EventLog, NewDeadLetter};
use muster_schemas::metrics::MetricBatch;
use muster_schemas::names::DeviceName;
use muster_schemas::{Timestamp, subjects};
use tokio_util::sync::CancellationToken;

use super::line_protocol::{Origin, encode};
use super::names::{Name, Names, Who};
use super::places::{Place, Places};
use super::room;
use super::series::SeriesGuard;
use super::sink::{Completion, MetricSink, Outcome};
use crate::{counters, streams};

/// Messages that are read and not yet acknowledged, for all readers together.
const MAX_PENDING: i64 = 8_192;
/// Messages that one reader holds at most; their lines are bounded by the sink.
const IN_HAND: usize = 2_048;
/// Bytes that the broker may send ahead.
const BYTES_AHEAD: usize = 8 << 20;
/// Series that a device may have; the agent holds applications to a tenth of it.
const SERIES: usize = 10_000;
/// Messages that wait for their device's name; others are read meanwhile.
const NAMELESS: usize = 512;
/// The durable consumer, which all readers share.
pub(super) const CONSUMER: &str = "metrics";
const RETRY: Duration = Duration::from_millis(500);

/// Reads metric batches until `stop`, and makes room where they come from.
pub async fn run(
    log: EventLog,
    nats: async_nats::Client,
    (sink, places): (MetricSink, Places),
    copies: streams::Copies,
    stop: CancellationToken,
) {
    let reading = read(log, nats.clone(), (sink, places, copies), &stop);
    tokio::join!(reading, room::run(nats, stop.clone()));
}

/// Starts again whenever something fails.
async fn read(
    log: EventLog,
    nats: async_nats::Client,
    (sink, places, copies): (MetricSink, Places, streams::Copies),
    stop: &CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => return,
        () = places.known() => {}
    }
    let mut told = String::new();
    let names = Names::start(log.clone());
    let series = Mutex::new(SeriesGuard::new(SERIES));
    while !stop.is_cancelled() {
        let reader = Reader {
            log: &log,
            sink: &sink,
            places: &places,
            names: &names,
            series: &series,
            copies,
        };
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = reader.run(&nats) => ended,
        };
        if let Err(problem) = ended
            && problem != told
        {
            tracing::warn!(error = %problem, "metrics are not read; trying again");
            told = problem;
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct Reader<'a> {
    log: &'a EventLog,
    sink: &'a MetricSink,
    places: &'a Places,
    names: &'a Names,
    series: &'a Mutex<SeriesGuard>,
    copies: streams::Copies,
}

impl Reader<'_> {
    async fn run(&self, nats: &async_nats::Client) -> Result<(), String> {
        let jetstream = jetstream::new(nats.clone());
        let (stream, _) = streams::ensure_metrics(&jetstream, self.copies)
            .await
            .map_err(|error| error.to_string())?;
        let consumer = stream
            .get_or_create_consumer(
                CONSUMER,
                consumer::pull::Config {
                    durable_name: Some(CONSUMER.to_owned()),
                    ack_policy: consumer::AckPolicy::Explicit,
                    ack_wait: Duration::from_secs(60),
                    max_ack_pending: MAX_PENDING,
                    ..Default::default()
                },
            )
            .await
            .map_err(|error| error.to_string())?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(IN_HAND)
            .max_bytes_per_batch(BYTES_AHEAD)
            .expires(Duration::from_secs(20))
            .heartbeat(Duration::from_secs(5))
            .messages()
            .await
            .map_err(|error| error.to_string())?;
        let mut naming = FuturesUnordered::new();
        let mut writing = FuturesUnordered::new();
        loop {
            let (message, who, name) = tokio::select! {
                Some(done) = writing.next() => {
                    finish(self.log, done).await?;
                    continue;
                }
                Some(named) = naming.next() => {
                    let (message, who, name): (Arc<jetstream::Message>, Who, Result<_, _>) = named;
                    (message, who, name.map_err(|_| "names are not read any more".to_owned())?)
                }
                next = messages.next(), if writing.len() < IN_HAND && naming.len() < NAMELESS => {
                    let Some(message) = next else { return Err("the subscription ended".to_owned()) };
                    let message = Arc::new(message.map_err(|error| error.to_string())?);
                    let Some((project, device, _)) = subjects::parse_stored(&message.subject) else {
                        let detail = "no device's subject".to_owned();
                        refuse(self.log, &message, "foreign_subject", detail).await?;
                        continue;
                    };
                    let who = (project, device);
                    match self.names.of(&who) {
                        Name::Known(name) => (message, who, name),
                        Name::Awaited(name) => {
                            naming.push(async move { (message, who, name.await) });
                            continue;
                        }
                    }
                }
            };
            match self.take(&message, &who, name).await? {
                Taken::Writing(completion) => {
                    writing.push(async move { (message, completion.await) });
                }
                Taken::Refused(cause, detail) => {
                    refuse(self.log, &message, cause, detail).await?;
                }
                Taken::Empty => acknowledge(&message).await?,
            }
        }
    }

    /// Hands a message's lines to the sink; waits there while the sink is full.
    async fn take(
        &self,
        message: &jetstream::Message,
        (project, device): &Who,
        name: Option<DeviceName>,
    ) -> Result<Taken, String> {
        let device = *device;
        let Some(name) = name else {
            let detail = format!("device {device} is not known, or was deleted");
            return Ok(Taken::Refused("unknown_device", detail));
        };
        let mut batch = match MetricBatch::decode(&message.payload) {
            Ok(batch) => batch,
            Err(error) => return Ok(Taken::Refused("unreadable_batch", error.to_string())),
        };
        let place = self.places.of(project);
        if let Place::Own { days, .. } = place {
            counters::past_retention(leave_out_past(&mut batch, days, SystemTime::now().into()));
        }
        let kept = {
            let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
            series.hold(&(project.clone(), device), &mut batch, Instant::now())
        };
        counters::points_over_limit(kept.dropped);
        if kept.is_news {
            tracing::warn!(
                %project, %device, name = name.as_str(),
                "the device has more than {SERIES} series of metrics; points of new ones are dropped for a day"
            );
        }
        let lines = encode(&batch, &Origin { project, device, name: name.as_str() });
        if lines.count() == 0 {
            return Ok(Taken::Empty);
        }
        let completion =
            self.sink.submit_to(place, lines).await.map_err(|error| error.to_string())?;
        Ok(Taken::Writing(completion))
    }
}

/// Leaves out what the store would let go at once, and says so as a refusal: points of a device that
/// was away for longer than its project's metrics are kept. Answers how many.
fn leave_out_past(batch: &mut MetricBatch, days: u16, now: Timestamp) -> usize {
    let oldest = now.plus_micros(-i64::from(days) * 86_400_000_000);
    let (time, before) = (batch.time, batch.points.len());
    batch.points.retain(|point| time.plus_micros(point.offset) >= oldest);
    before - batch.points.len()
}

enum Taken {
    Writing(Completion),
    Refused(&'static str, String),
    Empty,
}

async fn finish(
    log: &EventLog,
    (message, outcome): (Arc<jetstream::Message>, Outcome),
) -> Result<(), String> {
    match outcome {
        Outcome::Written => acknowledge(&message).await,
        Outcome::Rejected(lines) => {
            let detail = lines
                .iter()
                .take(5)
                .map(|line| format!("{}: {}", line.reason, line.line))
                .collect::<Vec<_>>()
                .join("; ");
            refuse(log, &message, "refused_by_store", detail).await
        }
        Outcome::Abandoned => Ok(()),
    }
}

async fn acknowledge(message: &jetstream::Message) -> Result<(), String> {
    message.ack().await.map_err(|error| error.to_string())
}

/// Keeps a message as a dead letter, then acknowledges it.
async fn refuse(
    log: &EventLog,
    message: &jetstream::Message,
    cause: &'static str,
    detail: String,
) -> Result<(), String> {
    let letter = NewDeadLetter {
        source: DeadLetterSource::Metrics,
        project: subjects::parse_stored(&message.subject).map(|(project, ..)| project.to_string()),
        subject: message.subject.to_string(),
        cause,
        detail,
        bytes: message.payload.to_vec(),
    };
    counters::dead_letter(letter.source, cause);
    log.keep_dead_letters(&[letter]).await.map_err(|error| error.to_string())?;
    acknowledge(message).await
}
