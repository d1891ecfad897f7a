//! Sends every device the log's position, after an outage or a restart.
//!
//! A device that waits for the servers cannot see them return, and one that has nothing to send would
//! not notice that the log was restored from an older backup. One acknowledgment to each device ends
//! both: its retry timers restart, and a device whose state differs sends a hello.

use std::time::Duration;

use muster_eventlog::{EventLog, StoreError};
use muster_schemas::wire::Ack;

use super::acks;

/// Number of devices of one page.
const PAGE_SIZE: u32 = 200;
/// Interval between pages. A fleet responds spread over devices ÷ 400 seconds, so 10,000 devices take
/// 25 s.
const PAGE_INTERVAL: Duration = Duration::from_millis(500);

/// Sends each device an acknowledgment of its events in the log. `resend` requests all events that the
/// log does not have: the stream was lost.
pub(super) async fn announce(log: EventLog, nats: async_nats::Client, resend: bool) {
    if let Err(error) = try_announce(&log, &nats, resend).await {
        tracing::debug!(
            %error,
            "failed to send the watermarks to all devices; devices request them"
        );
    }
}

async fn try_announce(
    log: &EventLog,
    nats: &async_nats::Client,
    resend: bool,
) -> Result<(), StoreError> {
    for project in log.projects().await? {
        let mut after = None;
        loop {
            let devices = log.active_devices(&project, after, PAGE_SIZE).await?;
            let Some(last) = devices.last() else { break };
            after = Some(*last);
            for (device, access) in log.device_access(&project, &devices).await? {
                let Some(epoch) = access.epochs.last().filter(|epoch| !epoch.is_closed) else {
                    continue;
                };
                let ack = Ack { epoch: epoch.epoch, seq: epoch.seq, hash: epoch.tip, resend };
                acks::send(nats, &project, device, &ack).await;
            }
            tokio::time::sleep(PAGE_INTERVAL).await;
        }
    }
    Ok(())
}
