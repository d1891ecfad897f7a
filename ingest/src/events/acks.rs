//! Acknowledgments to devices: how far the log has committed.

use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::Ack;
use muster_schemas::{DeviceId, ProjectId, codec};

use super::validation::Chain;

/// Publishes an ack for each chain. A lost ack costs a retransmission, so nothing waits for these.
pub(super) async fn publish(nats: &async_nats::Client, chains: impl Iterator<Item = &Chain>) {
    for chain in chains {
        let (project, device, _) = &chain.key;
        send(nats, project, *device, &chain.ack).await;
    }
}

/// Publishes one ack.
pub(super) async fn send(
    nats: &async_nats::Client,
    project: &ProjectId,
    device: DeviceId,
    ack: &Ack,
) {
    let subject = DeviceSubjects::new(project, device).acks();
    if let Err(error) = nats.publish(subject, codec::encode(ack).into()).await {
        tracing::debug!(%device, %error, "failed to send an ack");
    }
}
