//! The two JetStream streams: created if missing, so that a broker that lost its disk works again
//! automatically, and updated if an older release created them.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use async_recursion::async_recursion as boxed;
use muster_eventlog::incarnation;
use muster_schemas::envelope::MAX_EVENT_BYTES;
use muster_schemas::metrics::MAX_BATCH_BYTES;
use muster_schemas::subjects;

pub(crate) type StreamError = async_nats::error::Error<jetstream::context::CreateStreamErrorKind>;

/// Creates both streams if missing, and updates them.
///
/// # Errors
/// When the broker does not respond, or refuses.
#[boxed]
pub async fn ensure(nats: &async_nats::Client, copies: Copies) -> Result<(), StreamError> {
    let jetstream = jetstream::new(nats.clone());
    ensure_events(&jetstream, copies).await?;
    ensure_metrics(&jetstream, copies).await?;
    Ok(())
}

/// Number of servers of a cluster that hold each stream: 1, 3 or 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copies(pub usize);

/// Minimum that the broker accepts. Message ids come from devices, and those of two devices could
/// collide; the log itself recognizes duplicates.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// Size allowed for the headers of a device's message, in bytes.
const MAX_HEADER_BYTES: usize = 1024;

/// Name of the durable consumer of METRICS, which all readers share.
pub(crate) const METRICS_CONSUMER: &str = "metrics";

/// Opens EVENTS; returns it with its incarnation, which changes after it was lost.
///
/// # Errors
/// When the broker does not respond, or refuses.
#[boxed]
pub async fn ensure_events(
    jetstream: &jetstream::Context,
    copies: Copies,
) -> Result<(stream::Stream, String), StreamError> {
    open(
        jetstream,
        stream::Config {
            num_replicas: copies.0,
            name: subjects::EVENTS_STREAM.to_owned(),
            description: Some("signed events of devices, before they are in the log".to_owned()),
            subjects: vec![subjects::ALL_EVENTS.to_owned()],
            subject_transform: Some(stream::SubjectTransform {
                source: subjects::ALL_EVENTS.to_owned(),
                destination: subjects::EVENTS_TRANSFORM.to_owned(),
            }),
            // Devices keep events that the log has not acknowledged; the stream only carries them.
            max_age: Duration::from_secs(24 * 3600),
            max_bytes: 2 << 30,
            discard: stream::DiscardPolicy::Old,
            max_message_size: max_message_size(MAX_EVENT_BYTES),
            no_ack: true,
            republish: Some(confirmation_republish(subjects::EVENTS_STORED)),
            duplicate_window: DUPLICATE_WINDOW,
            ..Default::default()
        },
    )
    .await
}

/// Opens METRICS; returns it with its incarnation.
///
/// # Errors
/// When the broker does not respond, or refuses.
#[boxed]
pub async fn ensure_metrics(
    jetstream: &jetstream::Context,
    copies: Copies,
) -> Result<(stream::Stream, String), StreamError> {
    open(
        jetstream,
        stream::Config {
            num_replicas: copies.0,
            name: subjects::METRICS_STREAM.to_owned(),
            description: Some("metric batches of devices, before they are stored".to_owned()),
            subjects: vec![subjects::ALL_METRICS.to_owned()],
            subject_transform: Some(stream::SubjectTransform {
                source: subjects::ALL_METRICS.to_owned(),
                destination: subjects::METRICS_TRANSFORM.to_owned(),
            }),
            // A batch that was confirmed to a device stays until it is consumed: a full stream refuses, and
            // the device keeps its batch. `metrics::room` deletes consumed batches.
            max_bytes: 4 << 30,
            discard: stream::DiscardPolicy::New,
            max_message_size: max_message_size(MAX_BATCH_BYTES),
            no_ack: true,
            republish: Some(confirmation_republish(subjects::METRICS_STORED)),
            duplicate_window: DUPLICATE_WINDOW,
            ..Default::default()
        },
    )
    .await
}

/// The broker reuses the buffers of messages for later ones of any size: its memory is their peak
/// number, multiplied by the largest message.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "constants of a few MiB"
)]
const fn max_message_size(body: usize) -> i32 {
    (body + MAX_HEADER_BYTES) as i32
}

/// Confirms each stored message to its device. A PubAck would go to any subject that the message
/// names, with the server's rights.
fn confirmation_republish((source, destination): (&str, &str)) -> stream::Republish {
    stream::Republish {
        source: source.to_owned(),
        destination: destination.to_owned(),
        headers_only: true,
    }
}

async fn open(
    jetstream: &jetstream::Context,
    config: stream::Config,
) -> Result<(stream::Stream, String), StreamError> {
    let stream = jetstream.get_or_create_stream(config.clone()).await?;
    let found = &stream.cached_info().config;
    // An operator may have chosen its size, and a larger number of copies.
    let config = stream::Config {
        description: config.description,
        subjects: config.subjects,
        subject_transform: config.subject_transform,
        max_age: config.max_age,
        discard: config.discard,
        num_replicas: config.num_replicas.max(found.num_replicas),
        max_message_size: config.max_message_size,
        no_ack: config.no_ack,
        republish: config.republish,
        duplicate_window: config.duplicate_window,
        ..found.clone()
    };
    if config != *found {
        jetstream.create_or_update_stream(config).await?;
        tracing::info!(
            stream = %stream.cached_info().config.name,
            "the configuration of a stream was updated"
        );
    }
    let incarnation = incarnation(stream.cached_info().created.unix_timestamp_nanos());
    Ok((stream, incarnation))
}
