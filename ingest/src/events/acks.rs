//! Tells devices how far the log has committed.

use muster_schemas::codec;
use muster_schemas::subjects::DeviceSubjects;

use super::intake::Chain;

/// Publishes an ack for each chain. A lost ack costs a resend, so nothing waits for these.
pub(super) async fn publish(nats: &async_nats::Client, chains: impl Iterator<Item = &Chain>) {
    for chain in chains {
        let (project, device, _) = &chain.key;
        let subject = DeviceSubjects::new(project, *device).acks();
        if let Err(error) = nats.publish(subject, codec::encode(&chain.ack).into()).await {
            tracing::debug!(%device, %error, "an ack could not be sent");
        }
    }
}
