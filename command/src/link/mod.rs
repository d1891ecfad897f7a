//! Requests of devices over the broker: subjects `muster.<project>.<device>.req.<verb>`, shared by
//! all command processes through a queue group.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use futures::StreamExt;
use muster_schemas::subjects::{self, DeviceSubjects};
use muster_schemas::{DeviceId, ProjectId};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::dispatch::Dispatch;
use crate::error::CommandError;
use crate::hello::Hellos;
use crate::outputs::Outputs;

const HELLO_SUBJECT: &str = "req.hello";
const OUTPUT_SUBJECT: &str = "req.output";

/// Maximum number of requests of one kind that are processed concurrently.
const MAX_CONCURRENT_REQUESTS: usize = 64;
/// Maximum size of hellos, and of output pieces, that are processed or queued, in bytes. Further
/// requests get no response, and the devices retry: memory is bounded, however slow the log or the
/// blob store is.
const MAX_QUEUED_HELLO_BYTES: usize = 128 << 20;
const MAX_QUEUED_PIECE_BYTES: usize = 128 << 20;
/// Maximum memory that a request needs in addition to its payload, in bytes.
const REQUEST_OVERHEAD_BYTES: usize = 8 << 10;
/// Maximum number of devices that concurrently receive what is due after their hellos.
const MAX_CONCURRENT_DELIVERIES: usize = 16;
/// Maximum number of concurrent requests of one device; an agent has at most eight.
const MAX_REQUESTS_PER_DEVICE: usize = 16;
/// Age of a queued request at which it is dropped: the device has sent a newer one.
const MAX_QUEUE_AGE: Duration = Duration::from_secs(10);
/// Delay before a subscription that ended is renewed.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Requests of one kind. Neither a store that is slow for one kind nor a device that sends requests
/// without end delays the others.
struct Lane {
    slots: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Number of requests of each subject, which belongs to one device.
    per_subject: Arc<Mutex<HashMap<String, usize>>>,
}

/// A request that was admitted to its lane.
struct AdmittedRequest {
    subject: String,
    per_subject: Arc<Mutex<HashMap<String, usize>>>,
    _bytes: OwnedSemaphorePermit,
}

impl Lane {
    fn new(bytes: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS)),
            bytes: Arc::new(Semaphore::new(bytes)),
            per_subject: Arc::default(),
        }
    }

    /// Admits a request of this size; `None` when too many wait, of all devices or of this one.
    fn admit(&self, subject: &str, bytes: usize) -> Option<AdmittedRequest> {
        let bytes = u32::try_from(bytes.saturating_add(REQUEST_OVERHEAD_BYTES)).ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
        let mut each = self.per_subject.lock();
        let count = each.entry(subject.to_owned()).or_default();
        if *count >= MAX_REQUESTS_PER_DEVICE {
            return None;
        }
        *count += 1;
        let (subject, each) = (subject.to_owned(), Arc::clone(&self.per_subject));
        Some(AdmittedRequest { subject, per_subject: each, _bytes: bytes })
    }
}

impl Drop for AdmittedRequest {
    fn drop(&mut self) {
        let mut each = self.per_subject.lock();
        if let Some(count) = each.get_mut(&self.subject) {
            *count -= 1;
            if *count == 0 {
                each.remove(&self.subject);
            }
        }
    }
}

/// Responds to requests of devices.
#[derive(Clone, Debug)]
pub struct Link {
    /// Connection to the servers' account.
    nats: async_nats::Client,
    hellos: Hellos,
    outputs: Outputs,
    dispatch: Dispatch,
}

impl Link {
    pub(crate) const fn new(
        nats: async_nats::Client,
        hellos: Hellos,
        outputs: Outputs,
        dispatch: Dispatch,
    ) -> Self {
        Self { nats, hellos, outputs, dispatch }
    }

    /// Responds to requests until `stop`.
    #[boxed]
    pub async fn run(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                served = self.serve() => {
                    if let Err(error) = served {
                        tracing::warn!(%error, "failed to receive devices' requests; trying again");
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    async fn serve(&self) -> Result<(), async_nats::SubscribeError> {
        let group = "command".to_owned();
        let mut requests = self.nats.queue_subscribe(subjects::ALL_REQUESTS, group).await?;
        let (hellos, pieces) =
            (Lane::new(MAX_QUEUED_HELLO_BYTES), Lane::new(MAX_QUEUED_PIECE_BYTES));
        let deliveries = Arc::new(Semaphore::new(MAX_CONCURRENT_DELIVERIES));
        let mut is_full = false;
        while let Some(message) = requests.next().await {
            let lane = if message.subject.ends_with(OUTPUT_SUBJECT) { &pieces } else { &hellos };
            let admitted = lane.admit(&message.subject, message.payload.len());
            if admitted.is_none() && !is_full {
                let request = message.subject.as_str();
                tracing::warn!(request, "too many requests are waiting; devices retry later");
            }
            is_full = admitted.is_none();
            let Some(admitted) = admitted else { continue };
            let (link, places) = (self.clone(), Arc::clone(&lane.slots));
            let deliveries = Arc::clone(&deliveries);
            tokio::spawn(async move {
                let greeted = match timeout(MAX_QUEUE_AGE, places.acquire()).await {
                    Ok(Ok(_permit)) => link.respond(message).await,
                    _ => None,
                };
                drop(admitted);
                // The device is subscribed now, and knows the time.
                if let Some((project, device)) = greeted
                    && let Ok(_permit) = deliveries.acquire().await
                    && let Err(error) = link.dispatch.orders.deliver_due(&project, device).await
                {
                    tracing::warn!(
                        %project, %device, %error,
                        "failed to send a device its pending messages"
                    );
                }
            });
        }
        Ok(())
    }

    /// Responds to one request; returns the device whose hello got a welcome. A request without a valid
    /// proof gets no response: the device retries. A hello that this role fails to process gets an
    /// empty response.
    async fn respond(&self, message: async_nats::Message) -> Option<(ProjectId, DeviceId)> {
        let (project, device, what) = subjects::parse(&message.subject)?;
        let reply = message.reply.clone()?;
        // Sent with command's own rights, so only to a subject that the device may subscribe to.
        let inbox = DeviceSubjects::new(&project, device).inbox_prefix();
        if reply.strip_prefix(&inbox).is_none_or(|rest| !rest.starts_with('.')) {
            tracing::warn!(
                %project, %device, %reply,
                "a request has a reply subject that its device may not subscribe to"
            );
            return None;
        }
        let answered = match what {
            HELLO_SUBJECT => self.hellos.welcome(&project, device, &message.payload).await,
            OUTPUT_SUBJECT => self.outputs.accept(&project, device, &message.payload).await,
            other => {
                tracing::debug!(%device, request = other, "an unknown request was ignored");
                return None;
            }
        };
        match answered {
            Ok(sealed) => {
                if let Err(error) = self.nats.publish(reply, sealed.into()).await {
                    tracing::debug!(%device, %error, "failed to respond to a request");
                }
                return (what == HELLO_SUBJECT).then_some((project, device));
            }
            Err(CommandError::IdentityNotProven(problem)) => {
                tracing::warn!(%project, %device, %problem, "a device's request was rejected");
            }
            Err(error) => {
                tracing::warn!(%project, %device, %error, "a device's request failed");
                // Its timeout for a response is longer than its backoff.
                if what == HELLO_SUBJECT && !matches!(error, CommandError::Rejected(_)) {
                    let sent = self.nats.publish(reply, bytes::Bytes::new()).await;
                    sent.unwrap_or_else(
                        |error| tracing::debug!(%device, %error, "failed to report this to the device"),
                    );
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_admits_requests_up_to_its_capacity() {
        let lane = Lane::new(10 + 2 * REQUEST_OVERHEAD_BYTES);
        let (one, other) = (lane.admit("a", 6), lane.admit("a", 0));
        assert!(one.is_some() && other.is_some());
        assert!(lane.admit("b", 4).is_none() && lane.admit("b", usize::MAX).is_none());
        drop(one);
        assert!(lane.admit("a", 9).is_some());
    }

    #[test]
    fn one_device_cannot_use_the_whole_lane() {
        let lane = Lane::new(MAX_QUEUED_PIECE_BYTES);
        let mut all: Vec<_> = (0..MAX_REQUESTS_PER_DEVICE).map(|_| lane.admit("a", 1)).collect();
        assert!(all.iter().all(Option::is_some) && lane.admit("a", 1).is_none());
        assert!(lane.admit("b", 1).is_some());
        all.pop();
        assert!(lane.admit("a", 1).is_some());
        drop(all);
        assert!(lane.per_subject.lock().is_empty());
    }
}
