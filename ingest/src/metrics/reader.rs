//! Metric batches: from JetStream to the sink, any number of readers at once.
//!
//! A batch is acknowledged when the store has it, or when it is kept as a dead letter. Writing a
//! batch twice changes nothing, so nothing here has to be exactly once.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, consumer};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_eventlog::{DeadLetterSource, EventLog, NewDeadLetter};
use muster_schemas::metrics::MetricBatch;
use muster_schemas::names::DeviceName;
use muster_schemas::subjects;
use tokio_util::sync::CancellationToken;

use super::line_protocol::{Origin, encode};
use super::names::{Name, Names, Who};
use super::room;
use super::sink::{Completion, MetricSink, Outcome};
use crate::{counters, streams};

/// Messages that are read and not yet acknowledged, for all readers together.
const MAX_PENDING: i64 = 8_192;
/// Messages that one reader holds at most; their lines are bounded by the sink.
const IN_HAND: usize = 2_048;
/// Bytes that the broker may send ahead.
const BYTES_AHEAD: usize = 8 << 20;
/// Messages that wait for their device's name; others are read meanwhile.
const NAMELESS: usize = 512;
/// The durable consumer, which all readers share.
pub(super) const CONSUMER: &str = "metrics";
const RETRY: Duration = Duration::from_millis(500);

/// Reads metric batches until `stop`, and makes room where they come from.
pub async fn run(
    log: EventLog,
    nats: async_nats::Client,
    sink: MetricSink,
    copies: streams::Copies,
    stop: CancellationToken,
) {
    tokio::join!(read(log, nats.clone(), (sink, copies), &stop), room::run(nats, stop.clone()));
}

/// Starts again whenever something fails.
async fn read(
    log: EventLog,
    nats: async_nats::Client,
    (sink, copies): (MetricSink, streams::Copies),
    stop: &CancellationToken,
) {
    let mut told = String::new();
    let names = Names::start(log.clone());
    while !stop.is_cancelled() {
        let reader = Reader { log: &log, sink: &sink, names: &names, copies };
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
    names: &'a Names,
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
        let batch = match MetricBatch::decode(&message.payload) {
            Ok(batch) => batch,
            Err(error) => return Ok(Taken::Refused("unreadable_batch", error.to_string())),
        };
        let lines = encode(&batch, &Origin { project, device, name: name.as_str() });
        if lines.count() == 0 {
            return Ok(Taken::Empty);
        }
        let completion = self.sink.submit(lines).await.map_err(|error| error.to_string())?;
        Ok(Taken::Writing(completion))
    }
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
