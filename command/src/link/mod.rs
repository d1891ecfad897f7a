//! What devices ask over the broker: requests on `muster.<project>.<device>.req.<verb>`, shared by
//! all command processes through a queue group.

use std::sync::Arc;

use futures::StreamExt;
use muster_schemas::subjects::{self, DeviceSubjects};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::service::{Service, ServiceError};

/// Requests that are worked on at once; the rest waits in the broker's buffers.
const AT_ONCE: usize = 64;
/// The wait before a subscription that ended is made again.
const RETRY: std::time::Duration = std::time::Duration::from_millis(500);

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
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(message) = requests.next().await {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let service = service.clone();
        tokio::spawn(async move {
            answer(&service, message).await;
            drop(place);
        });
    }
    Ok(())
}

/// Answers one request. One that proves nothing gets no answer: the device asks again.
async fn answer(service: &Service, message: async_nats::Message) {
    let Some((project, device, what)) = subjects::parse(&message.subject) else { return };
    let Some(reply) = message.reply.clone() else { return };
    // Answered with our own rights, so only where the device itself may listen.
    let inbox = DeviceSubjects::new(&project, device).inbox_prefix();
    if reply.strip_prefix(&inbox).is_none_or(|rest| !rest.starts_with('.')) {
        tracing::warn!(%project, %device, %reply, "a request wants its answer where the device may not listen");
        return;
    }
    let answered = match what {
        "req.hello" => service.welcome(&project, device, &message.payload).await,
        "req.output" => service.take_output(&project, device, &message.payload).await,
        other => {
            tracing::debug!(%device, request = other, "a request that is not known here");
            return;
        }
    };
    match answered {
        Ok(sealed) => {
            if let Err(error) = service.nats.publish(reply, sealed.into()).await {
                tracing::debug!(%device, %error, "a request could not be answered");
            }
            // It listens now, and knows the time.
            if what == "req.hello"
                && let Err(error) = service.deliver_due(&project, device).await
            {
                tracing::warn!(%project, %device, %error, "a device is not sent what is due");
            }
        }
        Err(ServiceError::Unproved(problem)) => {
            tracing::warn!(%project, %device, %problem, "a device's request is refused");
        }
        Err(error) => {
            tracing::warn!(%project, %device, %error, "a device's request failed");
        }
    }
}
