//! Sends the backlog: several batches per message, compressed, at a limited rate, and deleted when
//! the broker has stored them.

use std::time::Duration;

use muster_channel::Publisher;
use muster_schemas::metrics::MetricBatch;
use muster_schemas::subjects::DeviceSubjects;
use tokio::time::sleep;

use super::backlog::{Backlog, merge};
use super::sampler::warn_dropped;
use crate::backoff::Backoff;
use crate::clock::ServerClock;
use crate::connection::Connection;
use crate::identity::Identity;

/// Maximum random delay after a reconnect, because all devices of a fleet may reconnect at the same
/// moment.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(5);
/// Mean interval between two messages.
const SEND_INTERVAL: Duration = Duration::from_millis(50);

/// Sends the backlog when there is one and the broker is connected.
pub(crate) async fn send_backlog(
    identity: &Identity,
    connection: &Connection,
    clock: &ServerClock,
    backlog: &Backlog,
) {
    let subjects = DeviceSubjects::new(&identity.project, identity.device);
    let subject = subjects.backfill();
    let mut link = connection.subscribe();
    let mut backoff = Backoff::reconnect();
    loop {
        // The caller owns the sender, so there is no error.
        let _ = link.wait_for(Option::is_some).await;
        sleep(MAX_RECONNECT_DELAY.mul_f64(rand::random())).await;
        loop {
            let publisher = link.borrow_and_update().clone();
            let Some(publisher) = publisher else { break };
            let (places, batches) = match backlog.oldest() {
                Ok((places, _)) if places.is_empty() => {
                    tokio::select! {
                        () = backlog.grew() => {}
                        _ = link.changed() => {}
                    }
                    continue;
                }
                Ok(oldest) => oldest,
                Err(error) => {
                    tracing::warn!(%error, "failed to read the metric backlog");
                    sleep(backoff.next_delay(rand::random())).await;
                    continue;
                }
            };
            let (whole, taken) = merge(&batches, clock.anchor().as_ref());
            let (messages, dropped) = whole
                .map(|whole| whole.messages(MetricBatch::encode_compressed))
                .unwrap_or_default();
            if !send(&publisher, &subject, messages).await {
                sleep(backoff.next_delay(rand::random())).await;
                continue;
            }
            warn_dropped(dropped);
            backoff.reset();
            connection.on_batch_sent();
            // Unreadable batches have no use; they are deleted with those around them.
            let sent = if taken == batches.len() { places.len() } else { taken };
            if let Err(error) = backlog.remove(places.get(..sent).unwrap_or(&places)) {
                tracing::warn!(%error, "failed to remove sent batches from the backlog");
                sleep(backoff.next_delay(rand::random())).await;
            }
            sleep(SEND_INTERVAL.mul_f64(0.5 + rand::random::<f64>())).await;
        }
    }
}

/// Sends messages sequentially; false if one of them was not confirmed. Then all are sent again:
/// the store treats a repeated point as one.
async fn send(publisher: &Publisher, subject: &str, messages: Vec<Vec<u8>>) -> bool {
    for message in messages {
        if publisher.publish(subject.to_owned(), message.into()).await.is_err() {
            return false;
        }
    }
    true
}
