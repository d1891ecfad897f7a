//! The two JetStream streams: made when they are missing, so that a broker that lost its disk
//! works again by itself.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use muster_schemas::subjects;

type StreamError = async_nats::error::Error<jetstream::context::CreateStreamErrorKind>;

/// Makes both streams, if they are missing.
///
/// # Errors
/// When the broker does not answer, or refuses.
pub async fn ensure(nats: &async_nats::Client) -> Result<(), StreamError> {
    let jetstream = jetstream::new(nats.clone());
    ensure_events(&jetstream).await?;
    ensure_metrics(&jetstream).await?;
    Ok(())
}

/// Opens EVENTS; answers it with its incarnation, which is another one after it was lost.
///
/// # Errors
/// When the broker does not answer, or refuses.
pub async fn ensure_events(
    jetstream: &jetstream::Context,
) -> Result<(stream::Stream, String), StreamError> {
    open(
        jetstream,
        stream::Config {
            name: subjects::EVENTS_STREAM.to_owned(),
            description: Some("signed events of devices, on their way into the log".to_owned()),
            subjects: vec![subjects::ALL_EVENTS.to_owned()],
            subject_transform: Some(stream::SubjectTransform {
                source: subjects::ALL_EVENTS.to_owned(),
                destination: subjects::EVENTS_TRANSFORM.to_owned(),
            }),
            // Devices keep what is not acknowledged by the log; this is only the way there.
            max_age: Duration::from_secs(24 * 3600),
            max_bytes: 2 << 30,
            discard: stream::DiscardPolicy::Old,
            duplicate_window: Duration::from_secs(120),
            ..Default::default()
        },
    )
    .await
}

/// Opens METRICS; answers it with its incarnation.
///
/// # Errors
/// When the broker does not answer, or refuses.
pub async fn ensure_metrics(
    jetstream: &jetstream::Context,
) -> Result<(stream::Stream, String), StreamError> {
    open(
        jetstream,
        stream::Config {
            name: subjects::METRICS_STREAM.to_owned(),
            description: Some("metric batches of devices, on their way into the store".to_owned()),
            subjects: vec![subjects::ALL_METRICS.to_owned()],
            subject_transform: Some(stream::SubjectTransform {
                source: subjects::ALL_METRICS.to_owned(),
                destination: subjects::METRICS_TRANSFORM.to_owned(),
            }),
            max_age: Duration::from_secs(72 * 3600),
            max_bytes: 4 << 30,
            discard: stream::DiscardPolicy::Old,
            ..Default::default()
        },
    )
    .await
}

async fn open(
    jetstream: &jetstream::Context,
    config: stream::Config,
) -> Result<(stream::Stream, String), StreamError> {
    let stream = jetstream.get_or_create_stream(config).await?;
    let incarnation = stream.cached_info().created.unix_timestamp_nanos().to_string();
    Ok((stream, incarnation))
}
