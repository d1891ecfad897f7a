//! Publishing to JetStream with a confirmation that is not a reply.
//!
//! JetStream sends its own acknowledgment (PubAck) to the reply subject that the publisher chooses,
//! with the server's rights; a hostile device could direct it anywhere. So the streams send none.
//! They republish the headers of each stored message on a subject that only the publishing device
//! may subscribe to, and the device recognizes its message by an id in the headers
//! (docs/decisions/0023).

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, SubscribeError, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use muster_schemas::wire::MESSAGE_ID_HEADER;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// The broker did not confirm a message.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The message could not be sent.
    #[error("failed to send a message to the broker")]
    Send(#[from] async_nats::PublishError),
    /// No confirmation within the timeout: the stream is missing or full, or the connection is lost.
    #[error("the broker did not confirm a message within {} s", .0.as_secs_f32())]
    Unconfirmed(Duration),
}

type PendingConfirmations = Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>;

/// Publishes on one connection and waits for the broker's confirmations. Clones share both.
#[derive(Clone, Debug)]
pub struct Publisher {
    client: Client,
    pending: PendingConfirmations,
    timeout: Duration,
    _reader: Arc<AbortOnDropHandle<()>>,
}

/// Removes an id when its confirmation is no longer awaited.
struct Entry {
    id: u64,
    pending: PendingConfirmations,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.pending.lock().remove(&self.id);
    }
}

impl Publisher {
    /// Subscribes to the device's confirmations (`DeviceSubjects::stored`).
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn new(
        client: Client,
        stored: String,
        timeout: Duration,
    ) -> Result<Self, SubscribeError> {
        let subscriber = client.subscribe(stored).await?;
        let waiting = PendingConfirmations::default();
        let reader = tokio::spawn(read(subscriber, Arc::clone(&waiting)));
        let reader = Arc::new(AbortOnDropHandle::new(reader));
        Ok(Self { client, pending: waiting, timeout, _reader: reader })
    }

    /// The connection.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a message. The returned future completes when the broker has confirmed it, so that several
    /// messages can be in flight.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub async fn send(
        &self,
        subject: String,
        bytes: Bytes,
    ) -> Result<impl Future<Output = Result<(), PublishError>> + Send + use<>, PublishError> {
        // Random: a confirmation for an earlier connection matches no message of this one.
        let id = rand::random();
        let (confirm, confirmed) = oneshot::channel();
        self.pending.lock().insert(id, confirm);
        let entry = Entry { id, pending: Arc::clone(&self.pending) };
        let mut headers = HeaderMap::new();
        headers.insert(MESSAGE_ID_HEADER, id.to_string());
        self.client.publish_with_headers(subject, headers, bytes).await?;
        let timeout = self.timeout;
        Ok(async move {
            let _entry = entry;
            match tokio::time::timeout(timeout, confirmed).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(PublishError::Unconfirmed(timeout)),
            }
        })
    }

    /// Sends a message and waits until the broker has confirmed it.
    ///
    /// # Errors
    /// When it cannot be sent, or is not confirmed in time.
    pub async fn publish(&self, subject: String, bytes: Bytes) -> Result<(), PublishError> {
        self.send(subject, bytes).await?.await
    }
}

async fn read(mut subscriber: Subscriber, pending: PendingConfirmations) {
    while let Some(message) = subscriber.next().await {
        let id = message.headers.as_ref().and_then(|headers| headers.get(MESSAGE_ID_HEADER));
        let Some(id) = id.and_then(|id| id.as_str().parse().ok()) else { continue };
        let confirm = pending.lock().remove(&id);
        if let Some(confirm) = confirm {
            // The wait may have timed out already.
            confirm.send(()).ok();
        }
    }
}
