//! What devices ask over the broker: requests on `muster.<project>.<device>.req.<verb>`, shared by
//! all command processes through a queue group.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use muster_schemas::subjects::{self, DeviceSubjects};
use muster_schemas::{DeviceId, ProjectId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::service::{Service, ServiceError};

const HELLO: &str = "req.hello";
const OUTPUT: &str = "req.output";

/// Requests of one kind that are worked on at once.
const AT_ONCE: usize = 64;
/// Bytes of hellos, and of pieces of output, that are worked on or wait for their turn. Whoever
/// sends more is not answered, and asks again: memory is bounded, however slow the log or the store
/// of blobs is.
const HELLOS: usize = 128 << 20;
const PIECES: usize = 128 << 20;
/// What a request costs beside its bytes, at most.
const OVERHEAD: usize = 8 << 10;
/// Devices that are sent what is due, after their hellos, at once.
const DELIVERIES: usize = 16;
/// Requests of one device, too; an agent has at most eight.
const OF_ONE: usize = 16;
/// Who has waited for so long asks again, and the newer request is as good.
const STALE: Duration = Duration::from_secs(10);
/// The wait before a subscription that ended is made again.
const RETRY: Duration = Duration::from_millis(500);

/// Requests of one kind. A store that is slow for one kind holds up no other, nor does a device that
/// asks without end.
struct Lane {
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// How many requests there are of each subject, which is one device's.
    each: Arc<Mutex<HashMap<String, usize>>>,
}

/// A request that has room in its lane.
struct Admitted {
    subject: String,
    each: Arc<Mutex<HashMap<String, usize>>>,
    _bytes: OwnedSemaphorePermit,
}

impl Lane {
    fn new(bytes: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            bytes: Arc::new(Semaphore::new(bytes)),
            each: Arc::default(),
        }
    }

    /// Room for a request of so many bytes; `None` when too much waits, of all or of this device.
    fn admit(&self, subject: &str, bytes: usize) -> Option<Admitted> {
        let bytes = u32::try_from(bytes.saturating_add(OVERHEAD)).ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let count = each.entry(subject.to_owned()).or_default();
        if *count >= OF_ONE {
            return None;
        }
        *count += 1;
        let (subject, each) = (subject.to_owned(), Arc::clone(&self.each));
        Some(Admitted { subject, each, _bytes: bytes })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = each.get_mut(&self.subject) {
            *count -= 1;
            if *count == 0 {
                each.remove(&self.subject);
            }
        }
    }
}

/// Answers requests until `stop`.
pub async fn run(service: Service, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            served = serve(&service) => {
                if let Err(error) = served {
                    tracing::warn!(%error, "devices' requests are not served; trying again");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn serve(service: &Service) -> Result<(), async_nats::SubscribeError> {
    let group = "command".to_owned();
    let mut requests = service.nats.queue_subscribe(subjects::ALL_REQUESTS, group).await?;
    let (hellos, pieces) = (Lane::new(HELLOS), Lane::new(PIECES));
    let deliveries = Arc::new(Semaphore::new(DELIVERIES));
    let mut is_full = false;
    while let Some(message) = requests.next().await {
        let lane = if message.subject.ends_with(OUTPUT) { &pieces } else { &hellos };
        let admitted = lane.admit(&message.subject, message.payload.len());
        if admitted.is_none() && !is_full {
            let request = message.subject.as_str();
            tracing::warn!(request, "too many requests wait; devices ask again later");
        }
        is_full = admitted.is_none();
        let Some(admitted) = admitted else { continue };
        let (service, places) = (service.clone(), Arc::clone(&lane.places));
        let deliveries = Arc::clone(&deliveries);
        tokio::spawn(async move {
            let greeted = match timeout(STALE, places.acquire()).await {
                Ok(Ok(_place)) => answer(&service, message).await,
                _ => None,
            };
            drop(admitted);
            // It listens now, and knows the time.
            if let Some((project, device)) = greeted
                && let Ok(_place) = deliveries.acquire().await
                && let Err(error) = service.deliver_due(&project, device).await
            {
                tracing::warn!(%project, %device, %error, "a device is not sent what is due");
            }
        });
    }
    Ok(())
}

/// Answers one request; a device whose hello was answered is named. One that proves nothing gets no
/// answer: the device asks again. A hello that this role fails to process gets an empty response.
async fn answer(service: &Service, message: async_nats::Message) -> Option<(ProjectId, DeviceId)> {
    let (project, device, what) = subjects::parse(&message.subject)?;
    let reply = message.reply.clone()?;
    // Answered with our own rights, so only where the device itself may listen.
    let inbox = DeviceSubjects::new(&project, device).inbox_prefix();
    if reply.strip_prefix(&inbox).is_none_or(|rest| !rest.starts_with('.')) {
        tracing::warn!(%project, %device, %reply, "a request wants its answer where the device may not listen");
        return None;
    }
    let answered = match what {
        HELLO => service.welcome(&project, device, &message.payload).await,
        OUTPUT => service.take_output(&project, device, &message.payload).await,
        other => {
            tracing::debug!(%device, request = other, "a request that is not known here");
            return None;
        }
    };
    match answered {
        Ok(sealed) => {
            if let Err(error) = service.nats.publish(reply, sealed.into()).await {
                tracing::debug!(%device, %error, "a request could not be answered");
            }
            return (what == HELLO).then_some((project, device));
        }
        Err(ServiceError::Unproved(problem)) => {
            tracing::warn!(%project, %device, %problem, "a device's request is refused");
        }
        Err(error) => {
            tracing::warn!(%project, %device, %error, "a device's request failed");
            // Its timeout for a response is longer than its backoff.
            if what == HELLO && !matches!(error, ServiceError::Rejected(_)) {
                let sent = service.nats.publish(reply, bytes::Bytes::new()).await;
                sent.unwrap_or_else(
                    |error| tracing::debug!(%device, %error, "failed to report this to the device"),
                );
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_takes_what_it_has_room_for() {
        let lane = Lane::new(10 + 2 * OVERHEAD);
        let (one, other) = (lane.admit("a", 6), lane.admit("a", 0));
        assert!(one.is_some() && other.is_some());
        assert!(lane.admit("b", 4).is_none() && lane.admit("b", usize::MAX).is_none());
        drop(one);
        assert!(lane.admit("a", 9).is_some());
    }

    #[test]
    fn one_device_leaves_room_for_the_others() {
        let lane = Lane::new(PIECES);
        let mut all: Vec<_> = (0..OF_ONE).map(|_| lane.admit("a", 1)).collect();
        assert!(all.iter().all(Option::is_some) && lane.admit("a", 1).is_none());
        assert!(lane.admit("b", 1).is_some());
        all.pop();
        assert!(lane.admit("a", 1).is_some());
        drop(all);
        assert!(lane.each.lock().unwrap().is_empty());
    }
}
