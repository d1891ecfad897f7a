//! Batches of metrics that were sent, and that the broker has not confirmed yet.

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use muster_channel::Publisher;

use super::backlog::Queued;

/// Maximum number of batches that wait for the broker concurrently.
const MAX_IN_FLIGHT: usize = 4;

/// Batches that wait for the broker's confirmation.
#[derive(Default)]
pub(super) struct InFlight {
    batches: Vec<(u64, Queued)>,
    /// The number of a batch, and whether the broker has stored it.
    confirmations: FuturesUnordered<BoxFuture<'static, (u64, bool)>>,
    last_number: u64,
}

impl InFlight {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.batches.len() < MAX_IN_FLIGHT
    }

    /// Sends a batch.
    pub(super) fn send(&mut self, publisher: Publisher, subject: String, queued: Queued) {
        self.last_number += 1;
        let (number, bytes) = (self.last_number, queued.batch.clone());
        self.batches.push((number, queued));
        self.confirmations.push(Box::pin(async move {
            (number, publisher.publish(subject, bytes.into()).await.is_ok())
        }));
    }

    /// Waits for the end of the next request: returns the batch, and whether the broker has stored
    /// it.
    pub(super) async fn next(&mut self) -> Option<(Queued, bool)> {
        let (sent, is_stored) = self.confirmations.next().await?;
        let index = self.batches.iter().position(|(number, _)| *number == sent)?;
        Some((self.batches.swap_remove(index).1, is_stored))
    }

    /// Returns the batches that the broker has not confirmed.
    pub(super) fn into_unconfirmed(self) -> impl Iterator<Item = Queued> {
        self.batches.into_iter().map(|(_, queued)| queued)
    }
}
