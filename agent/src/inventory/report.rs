//! Reports the inventory when it changes.

use std::path::Path;
use std::time::Duration;

use muster_schemas::{Event, Hash};
use tokio::time::{Instant, sleep};

use super::{collect, fingerprint, interfaces};
use crate::outbox::Recorder;
use crate::store::{Store, key};

/// Interval between checks of the network interfaces: two system calls.
const INTERFACE_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Interval between checks of the whole inventory.
const INVENTORY_CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// Reports the inventory at the start, when addresses change, and after an hourly check if it has
/// changed.
pub(crate) async fn report_inventory(root: &Path, store: &Store, recorder: &Recorder) {
    let mut reported: Option<Hash> = store.get(key::INVENTORY).unwrap_or_default();
    loop {
        let root = root.to_owned();
        // Waits for an unresponsive Docker Engine on another thread.
        let collected = tokio::task::spawn_blocking(move || collect(&root)).await;
        if let Ok(found) = collected {
            let hash = fingerprint(&found);
            if reported != Some(hash) {
                let event = Event::from(found);
                match recorder.record_with(&event, key::INVENTORY, &hash) {
                    Ok(seq) => {
                        reported = Some(hash);
                        tracing::info!(seq = seq.get(), "the inventory was reported");
                    }
                    // Retried at the next check.
                    Err(error) => tracing::warn!(%error, "failed to report the inventory"),
                }
            }
        }
        let (known, looked) = (interfaces(), Instant::now());
        while looked.elapsed() < INVENTORY_CHECK_INTERVAL
            && reported.is_some()
            && interfaces() == known
        {
            sleep(INTERFACE_CHECK_INTERVAL).await;
        }
        if reported.is_none() {
            sleep(INTERFACE_CHECK_INTERVAL).await;
        }
    }
}
