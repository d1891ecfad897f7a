//! Metric batches: from JetStream to the sink, any number of readers at once.
//!
//! A batch is acknowledged when the store has it, or when it is kept as a dead letter. Writing a
//! batch twice changes nothing, so nothing here has to be exactly once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_eventlog::{DeadLetterSource, EventLog, NewDeadLetter, StoreError};
use muster_schemas::metrics::MetricBatch;
use muster_schemas::names::DeviceName;
use muster_schemas::{DeviceId, Event, ProjectId, StreamName, subjects};
use tokio_util::sync::CancellationToken;

use super::line_protocol::{Origin, encode};
use super::sink::{Completion, MetricSink, Outcome};
use crate::streams;

/// Messages that are read and not yet acknowledged, for all readers together.
const MAX_PENDING: i64 = 8_192;
/// Messages that one reader holds at most; their lines are bounded by the sink.
const IN_HAND: usize = 2_048;
/// Bytes that the broker may send ahead.
const BYTES_AHEAD: usize = 8 << 20;
/// How long a device's name is remembered; a renamed device keeps its old `host` tag for so long.
const NAME_LIFE: Duration = Duration::from_secs(30);
/// Names that are remembered at most.
const NAMES: usize = 100_000;
const RETRY: Duration = Duration::from_millis(500);

/// Reads metric batches until `stop`; starts again whenever something fails.
pub async fn run(
    log: EventLog,
    nats: async_nats::Client,
    sink: MetricSink,
    stop: CancellationToken,
) {
    let mut told = String::new();
    while !stop.is_cancelled() {
        let mut reader = Reader { log: &log, sink: &sink, names: Names::default() };
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
    names: Names,
}

impl Reader<'_> {
    async fn run(&mut self, nats: &async_nats::Client) -> Result<(), String> {
        let jetstream = jetstream::new(nats.clone());
        let (stream, _) =
            streams::ensure_metrics(&jetstream).await.map_err(|error| error.to_string())?;
        let consumer = stream
            .get_or_create_consumer(
                "metrics",
                consumer::pull::Config {
                    durable_name: Some("metrics".to_owned()),
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
        let mut writing = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(done) = writing.next() => finish(self.log, done).await?,
                next = messages.next(), if writing.len() < IN_HAND => {
                    let Some(message) = next else { return Err("the subscription ended".to_owned()) };
                    let message = Arc::new(message.map_err(|error| error.to_string())?);
                    match self.take(&message).await? {
                        Taken::Writing(completion) => {
                            writing.push(async move { (message, completion.await) });
                        }
                        Taken::Refused(cause, detail) => {
                            keep(self.log, &message, cause, detail).await?;
                            acknowledge(&message).await?;
                        }
                        Taken::Empty => acknowledge(&message).await?,
                    }
                }
            }
        }
    }

    /// Hands a message's lines to the sink; waits there while the sink is full.
    async fn take(&mut self, message: &jetstream::Message) -> Result<Taken, String> {
        let Some((project, device, _)) = subjects::parse_stored(&message.subject) else {
            return Ok(Taken::Refused("foreign_subject", "no device's subject".to_owned()));
        };
        let name = self.names.of(self.log, &project, device).await;
        let Some(name) = name.map_err(|error| error.to_string())? else {
            let detail = format!("device {device} is not known, or was deleted");
            return Ok(Taken::Refused("unknown_device", detail));
        };
        let batch = match MetricBatch::decode(&message.payload) {
            Ok(batch) => batch,
            Err(error) => return Ok(Taken::Refused("unreadable_batch", error.to_string())),
        };
        let lines = encode(&batch, &Origin { project: &project, device, name: name.as_str() });
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
            keep(log, &message, "refused_by_store", detail).await?;
            acknowledge(&message).await
        }
        Outcome::Abandoned => Ok(()),
    }
}

async fn acknowledge(message: &jetstream::Message) -> Result<(), String> {
    message.ack().await.map_err(|error| error.to_string())
}

async fn keep(
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
    log.keep_dead_letters(&[letter]).await.map_err(|error| error.to_string())
}

/// The devices' names, remembered for a while. `None` for a device that is not there.
#[derive(Default)]
struct Names {
    known: HashMap<(ProjectId, DeviceId), (Option<DeviceName>, Instant)>,
}

impl Names {
    async fn of(
        &mut self,
        log: &EventLog,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<Option<DeviceName>, StoreError> {
        let key = (project.clone(), device);
        if let Some((name, read_at)) = self.known.get(&key)
            && read_at.elapsed() < NAME_LIFE
        {
            return Ok(name.clone());
        }
        if self.known.len() >= NAMES {
            self.known.clear();
        }
        let mut name = None;
        for stored in log.read_stream(project, &StreamName::Device(device)).await? {
            match stored.event() {
                Ok(Event::DeviceRegistered(event)) => name = Some(event.name),
                Ok(Event::DeviceRenamed(event)) => name = Some(event.name),
                Ok(Event::DeviceDeleted(_)) => name = None,
                _ => {}
            }
        }
        self.known.insert(key, (name.clone(), Instant::now()));
        Ok(name)
    }
}
