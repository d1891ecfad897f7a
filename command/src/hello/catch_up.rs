//! Whether the log contains every event of a device that the broker holds. If it does not, a log
//! that is behind its device may still catch up: after it was restored from a backup, ingest reads
//! the stream again from the backup's offset.

use async_nats::jetstream::{self, stream::LastRawMessageErrorKind};
use muster_eventlog::{EventLog, events_reader, incarnation};
use muster_schemas::{DeviceId, ProjectId, subjects};

/// Compares ingest's offset and acknowledgments with the newest stored event of the device; `None`
/// if the broker or the log does not respond.
pub(super) async fn is_caught_up(
    log: &EventLog,
    nats: &async_nats::Client,
    project: &ProjectId,
    device: DeviceId,
) -> Option<bool> {
    let stream = jetstream::new(nats.clone())
        .get_stream(subjects::EVENTS_STREAM)
        .await
        .inspect_err(|error| tracing::debug!(%error, "failed to open the stream of events"))
        .ok()?;
    let subject = subjects::stored_events(project, device);
    let message = match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => message,
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
            return Some(true);
        }
        Err(error) => {
            tracing::debug!(%error, "failed to read the newest event of a device");
            return None;
        }
    };
    let partition = subjects::stored_partition(&message.subject)?;
    let offset = log
        .offset(&events_reader(partition))
        .await
        .inspect_err(|error| tracing::debug!(%error, "failed to read ingest's offset"))
        .ok()?;
    let read = incarnation(stream.cached_info().created.unix_timestamp_nanos());
    if offset.incarnation != read || offset.sequence < message.sequence {
        return Some(false);
    }
    // The offset moves with the first append of a batch; the batch is acknowledged after the
    // last one, when the events of all projects are in the log.
    let consumer = stream
        .consumer_info(subjects::events_consumer(partition))
        .await
        .inspect_err(|error| tracing::debug!(%error, "failed to read ingest's consumer"))
        .ok()?;
    Some(consumer.ack_floor.stream_sequence >= message.sequence)
}
