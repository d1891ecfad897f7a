//! Reports the inventory when it changes.

use std::time::Duration;

use muster_schemas::{Event, Hash};
use tokio::time::{Instant, sleep};

use super::shared::Shared;
use crate::clock::Moment;
use crate::inventory;
use crate::store::key;

/// Interval between checks of the network interfaces: two system calls.
const INTERFACE_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Interval between checks of the whole inventory.
const INVENTORY_CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// Reports the inventory at the start, when addresses change, and after an hourly check if it has
/// changed.
pub(super) async fn report_inventory(shared: &Shared) {
    let mut reported: Option<Hash> = shared.store.get(key::INVENTORY).unwrap_or_default();
    loop {
        let root = shared.root.clone();
        // Waits for an unresponsive Docker Engine on another thread.
        let collected = tokio::task::spawn_blocking(move || inventory::collect(&root)).await;
        if let Ok(found) = collected {
            let fingerprint = inventory::fingerprint(&found);
            if reported != Some(fingerprint) {
                let event = Event::from(found);
                let beside = Some((key::INVENTORY, &fingerprint));
                match shared.outbox.record_with(&event, Moment::now(), beside) {
                    Ok(seq) => {
                        reported = Some(fingerprint);
                        shared.recorded.notify_one();
                        tracing::info!(seq, "the inventory was reported");
                    }
                    // Retried at the next check.
                    Err(error) => tracing::warn!(%error, "failed to report the inventory"),
                }
            }
        }
        let (interfaces, looked) = (inventory::interfaces(), Instant::now());
        while looked.elapsed() < INVENTORY_CHECK_INTERVAL
            && reported.is_some()
            && inventory::interfaces() == interfaces
        {
            sleep(INTERFACE_CHECK_INTERVAL).await;
        }
        if reported.is_none() {
            sleep(INTERFACE_CHECK_INTERVAL).await;
        }
    }
}
