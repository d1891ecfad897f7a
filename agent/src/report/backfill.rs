//! Sending what was kept: some batches together, compressed, at a pace, gone when the broker has them.

use std::time::Duration;

use muster_channel::Publisher;
use muster_schemas::metrics::MetricBatch;
use muster_schemas::subjects::DeviceSubjects;
use tokio::time::sleep;

use super::backlog::together;
use super::sampler::warn_dropped;
use crate::backoff::Backoff;
use crate::run::Shared;

/// Up to this long after a reconnect nothing is sent: a fleet comes back in one moment.
const SPREAD: Duration = Duration::from_secs(5);
/// The mean time between two messages.
const PACE: Duration = Duration::from_millis(50);

/// Sends the backlog whenever there is one and a connection.
pub(crate) async fn send_backlog(shared: &Shared) {
    let subjects = DeviceSubjects::new(&shared.identity.project, shared.identity.device);
    let subject = subjects.backfill();
    let mut link = shared.link.subscribe();
    let mut backoff = Backoff::reconnect();
    loop {
        // The sender lives in `shared`, so there is no error.
        let _ = link.wait_for(Option::is_some).await;
        sleep(SPREAD.mul_f64(rand::random())).await;
        loop {
            let publisher = link.borrow_and_update().clone();
            let Some(publisher) = publisher else { break };
            let (places, batches) = match shared.backlog.oldest() {
                Ok((places, _)) if places.is_empty() => {
                    tokio::select! {
                        () = shared.backlog_grew.notified() => {}
                        _ = link.changed() => {}
                    }
                    continue;
                }
                Ok(oldest) => oldest,
                Err(error) => {
                    tracing::warn!(%error, "the backlog of metrics cannot be read");
                    sleep(backoff.wait(rand::random())).await;
                    continue;
                }
            };
            let (whole, taken) = together(&batches, shared.anchor().as_ref());
            let (messages, dropped) = whole
                .map(|whole| whole.messages(MetricBatch::encode_compressed))
                .unwrap_or_default();
            if !send(&publisher, &subject, messages).await {
                sleep(backoff.wait(rand::random())).await;
                continue;
            }
            warn_dropped(dropped);
            backoff.reset();
            shared.counters.batches_sent();
            // One that cannot be read has no use; it goes with those around it.
            let sent = if taken == batches.len() { places.len() } else { taken };
            if let Err(error) = shared.backlog.remove(places.get(..sent).unwrap_or(&places)) {
                tracing::warn!(%error, "sent batches cannot be taken out of the backlog");
                sleep(backoff.wait(rand::random())).await;
            }
            sleep(PACE.mul_f64(0.5 + rand::random::<f64>())).await;
        }
    }
}

/// Sends messages one after the other; false when one of them was not confirmed. Then all are sent
/// again: the store takes the same point twice as one.
async fn send(publisher: &Publisher, subject: &str, messages: Vec<Vec<u8>>) -> bool {
    for message in messages {
        if publisher.publish(subject.to_owned(), message.into()).await.is_err() {
            return false;
        }
    }
    true
}
