//! The worker of one partition: fetch, validate, append, acknowledge; from the log's offset, until
//! something fails. Its caller restarts it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, AckKind, consumer};
use futures::StreamExt;
use muster_eventlog::{
    AppendError, Batch, DeadLetterSource, EventLog, Lease, NewDeadLetter, OffsetMove, StoreError,
    traces,
};
use muster_schemas::{ProjectId, StreamName, StreamVersion, Timestamp, subjects};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::devices::DeviceCache;
use super::validation::{Cause, Chain, InboundMessage, RejectedMessage, group_by_device, validate};
use super::{acks, announce, validation};
use crate::{counters, streams};

/// Maximum number of messages that are validated and appended together.
const MAX_BATCH_MESSAGES: usize = 512;
/// Maximum number of bytes that the broker sends ahead for one partition.
const MAX_PREFETCH_BYTES: usize = 4 << 20;
/// Number of retries of an append with stale watermarks.
const MAX_APPEND_RETRIES: usize = 5;

/// Why a worker stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerError {
    /// The log could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The append failed as a whole.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The broker did not respond, or refused.
    #[error("failed to {attempted}: {problem}")]
    Broker {
        /// The attempted action.
        attempted: &'static str,
        /// The broker's error.
        problem: String,
    },
}

fn broker_error(operation: &'static str) -> impl FnOnce(String) -> WorkerError {
    move |problem| WorkerError::Broker { attempted: operation, problem }
}

/// The dependencies of a worker.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) log: EventLog,
    pub(super) nats: async_nats::Client,
    pub(super) partition: u32,
    pub(super) copies: streams::Copies,
}

impl Worker {
    /// Works under a lease until something fails, or it is stopped: then after its current batch.
    pub(super) async fn run(
        &self,
        lease: &Lease,
        stop: &CancellationToken,
    ) -> Result<(), WorkerError> {
        let jetstream = jetstream::new(self.nats.clone());
        let (stream, incarnation) = streams::ensure_events(&jetstream, self.copies)
            .await
            .map_err(|error| broker_error("open the stream of events")(error.to_string()))?;
        let offset = self.log.take_over_offset(lease).await?;
        let done = if offset.incarnation == incarnation { offset.sequence } else { 0 };

        // The durable consumer is recreated at each takeover, from the log's offset: messages that an
        // earlier holder had fetched and not appended are delivered again, even if it acknowledged them.
        // Those that it had appended and not acknowledged are, too: their devices may still wait for
        // their acks.
        let name = subjects::events_consumer(self.partition);
        let acknowledged = match stream.consumer_info(&name).await {
            Ok(info) => info.ack_floor.stream_sequence,
            Err(_) => done,
        };
        let _ = stream.delete_consumer(&name).await;
        let consumer = stream
            .create_consumer(consumer::pull::Config {
                durable_name: Some(name),
                filter_subject: subjects::events_partition(self.partition),
                deliver_policy: consumer::DeliverPolicy::ByStartSequence {
                    start_sequence: done.min(acknowledged) + 1,
                },
                ack_policy: consumer::AckPolicy::All,
                ack_wait: Duration::from_secs(60),
                max_ack_pending: 8 * i64::try_from(MAX_BATCH_MESSAGES).unwrap_or(i64::MAX),
                ..Default::default()
            })
            .await
            .map_err(|error| {
                broker_error("create the consumer of a partition")(error.to_string())
            })?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(MAX_BATCH_MESSAGES * 2)
            .max_bytes_per_batch(MAX_PREFETCH_BYTES)
            .expires(Duration::from_secs(20))
            .heartbeat(Duration::from_secs(5))
            .messages()
            .await
            .map_err(|error| broker_error("fetch from a partition")(error.to_string()))?;
        // One worker announces for all: an outage of a server or a lost stream ends all of them.
        let stream_was_lost = !offset.incarnation.is_empty() && offset.incarnation != incarnation;
        let _announcing = (self.partition == 0).then(|| {
            let announcing =
                announce::announce(self.log.clone(), self.nats.clone(), stream_was_lost);
            AbortOnDropHandle::new(tokio::spawn(announcing))
        });
        let mut chunks = messages.ready_chunks(MAX_BATCH_MESSAGES);
        let mut devices = DeviceCache::default();
        loop {
            let chunk = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                chunk = chunks.next() => chunk,
            };
            let Some(chunk) = chunk else { break };
            let chunk: Vec<jetstream::Message> = chunk
                .into_iter()
                .collect::<Result<_, _>>()
                .map_err(|error| broker_error("fetch from a partition")(error.to_string()))?;
            self.handle(&mut devices, lease, &incarnation, done, chunk).await?;
        }
        Err(broker_error("fetch from a partition")("the subscription ended".to_owned()))
    }

    async fn handle(
        &self,
        devices: &mut DeviceCache,
        lease: &Lease,
        incarnation: &str,
        done: u64,
        chunk: Vec<jetstream::Message>,
    ) -> Result<(), WorkerError> {
        let arrived = traces::now();
        let (mut sequence, mut waiting, messages) = (done, 0, chunk.len());
        let mut arrivals = Vec::with_capacity(messages);
        for message in &chunk {
            let info = message.info().map_err(|error| {
                broker_error("read a message's sequence number in its stream")(error.to_string())
            })?;
            arrivals.push(InboundMessage {
                subject: message.subject.to_string(),
                bytes: message.payload.clone(),
                is_repeated: info.stream_sequence <= done,
            });
            sequence = sequence.max(info.stream_sequence);
            waiting = info.pending;
        }
        let (attributed, mut rejected) = group_by_device(arrivals);
        devices.load(&self.log, &attributed).await?;

        // Signatures are verified outside the runtime's own threads.
        let judged: Vec<_> = attributed
            .into_iter()
            .map(|(key, attributed)| (devices.access(&key), key, attributed))
            .collect();
        let (chains, more_rejected) = tokio::task::spawn_blocking(move || {
            let mut rejected = Vec::new();
            let chains: Vec<Chain> = judged
                .into_iter()
                .filter_map(|(access, key, attributed)| {
                    validate(key, attributed, &access, &mut rejected)
                })
                .collect();
            (chains, rejected)
        })
        .await
        .map_err(|error| broker_error("validate a batch")(error.to_string()))?;
        rejected.extend(more_rejected);

        let offset = OffsetMove {
            name: lease.name.clone(),
            incarnation: incarnation.to_owned(),
            sequence,
            fence: lease.fence,
        };
        // The append moves the offset: earlier rejections are stored before it. Rejections by the append
        // itself are stored before the broker may delete the messages.
        self.store_dead_letters(std::mem::take(&mut rejected)).await?;
        let started_at = Instant::now();
        let chains = self.append(devices, chains, &mut rejected, &offset).await?;
        let append = started_at.elapsed();
        self.store_dead_letters(rejected).await?;
        acks::publish(&self.nats, chains.iter()).await;
        self.trace(&chains, arrived);
        if let Some(last) = chunk.last() {
            last.ack_with(AckKind::Ack)
                .await
                .map_err(|error| broker_error("acknowledge a batch")(error.to_string()))?;
        }
        counters::record_batch(self.partition, messages, waiting, append);
        Ok(())
    }

    /// Reports each event's time in this process: validated, appended, acknowledged.
    fn trace(&self, chains: &[Chain], received_at: Timestamp) {
        if !traces::is_enabled() {
            return;
        }
        let partition = format!("partition {}", self.partition);
        let span = traces::Span {
            name: "ingest",
            start: received_at,
            end: traces::now(),
            detail: &partition,
        };
        for chain in chains {
            let stream = StreamName::DeviceReport(chain.key.1, chain.ack.epoch);
            let newest = StreamVersion::from(chain.ack.seq);
            for older in (0..chain.messages.len() as u64).rev() {
                let version = StreamVersion(newest.get().saturating_sub(older));
                span.emit(&chain.key.0, &stream, version);
            }
        }
    }

    /// Appends the chains; one with a stale watermark is validated again against the log.
    async fn append(
        &self,
        devices: &mut DeviceCache,
        chains: Vec<Chain>,
        rejected: &mut Vec<RejectedMessage>,
        offset: &OffsetMove,
    ) -> Result<Vec<Chain>, WorkerError> {
        let mut done = Vec::with_capacity(chains.len());
        if chains.is_empty() {
            self.log.advance_offset(offset).await?;
        }
        let mut by_project: HashMap<ProjectId, Vec<Chain>> = HashMap::new();
        for chain in chains {
            by_project.entry(chain.key.0.clone()).or_default().push(chain);
        }
        for (project, mut waiting) in by_project {
            for _ in 0..MAX_APPEND_RETRIES {
                let stale = self
                    .append_once(devices, &project, waiting, rejected, offset, &mut done)
                    .await?;
                if stale.is_empty() {
                    waiting = Vec::new();
                    break;
                }
                waiting = self.revalidate(devices, &project, stale, rejected).await?;
            }
            if !waiting.is_empty() {
                // Another process keeps writing these streams; start over from the log.
                return Err(broker_error("append a batch")(
                    "the watermarks keep changing".to_owned(),
                ));
            }
        }
        Ok(done)
    }

    /// One attempt; returns the chains with a stale watermark.
    async fn append_once(
        &self,
        devices: &mut DeviceCache,
        project: &ProjectId,
        chains: Vec<Chain>,
        rejected: &mut Vec<RejectedMessage>,
        offset: &OffsetMove,
        done: &mut Vec<Chain>,
    ) -> Result<Vec<Chain>, WorkerError> {
        let (mut writing, known): (Vec<Chain>, Vec<Chain>) =
            chains.into_iter().partition(|chain| chain.append.is_some());
        done.extend(known);
        let appends = writing.iter_mut().filter_map(|chain| chain.append.take()).collect();
        let batch = Batch { appends, offset: Some(offset.clone()) };
        let results = self.log.append_batch(project, batch).await?;
        let mut stale = Vec::new();
        for (chain, result) in writing.into_iter().zip(results) {
            match result {
                Ok(_) => {
                    if chain.is_rotated {
                        devices.remove(&chain.key);
                    } else {
                        devices.advance_watermark(&chain.key, chain.ack.seq, chain.ack.hash);
                    }
                    done.push(chain);
                }
                Err(AppendError::Conflict { .. }) => stale.push(chain),
                Err(AppendError::Closed { .. }) => {
                    devices.remove(&chain.key);
                    rejected.extend(chain.messages.into_iter().map(|arrival| RejectedMessage {
                        inbound: arrival,
                        cause: Cause::ClosedEpoch,
                        detail: "the device was deleted, or has enrolled again since".to_owned(),
                    }));
                }
                Err(AppendError::NoProject(name)) => {
                    rejected.extend(chain.messages.into_iter().map(|arrival| RejectedMessage {
                        inbound: arrival,
                        cause: Cause::UnknownDevice,
                        detail: format!("there is no project '{name}'"),
                    }));
                }
                Err(other) => return Err(other.into()),
            }
        }
        Ok(stale)
    }

    async fn revalidate(
        &self,
        devices: &mut DeviceCache,
        project: &ProjectId,
        stale: Vec<Chain>,
        rejected: &mut Vec<RejectedMessage>,
    ) -> Result<Vec<Chain>, WorkerError> {
        let ids: Vec<_> = stale.iter().map(|chain| chain.key.1).collect();
        devices.read(&self.log, project, &ids).await?;
        let (attributed, _) = validation::group_by_device(
            stale.into_iter().flat_map(|chain| chain.messages).collect(),
        );
        Ok(attributed
            .into_iter()
            .filter_map(|(key, attributed)| {
                let access = devices.access(&key);
                validate(key, attributed, &access, rejected)
            })
            .collect())
    }

    async fn store_dead_letters(&self, rejected: Vec<RejectedMessage>) -> Result<(), StoreError> {
        let dead_letters: Vec<NewDeadLetter> = rejected
            .into_iter()
            .filter(|message| !message.inbound.is_repeated)
            .map(|RejectedMessage { inbound: arrival, cause, detail }| NewDeadLetter {
                source: DeadLetterSource::Events,
                project: subjects::parse_stored(&arrival.subject)
                    .map(|(project, _, _)| project.to_string()),
                subject: arrival.subject,
                cause: cause.as_str(),
                detail,
                bytes: arrival.bytes.to_vec(),
            })
            .collect();
        for dead_letter in &dead_letters {
            counters::dead_letter(dead_letter.source, dead_letter.cause);
        }
        self.log.store_dead_letters(&dead_letters).await
    }
}
