//! The response to an open: a refusal, or the device's half of the keys, followed by the channel.

use async_nats::client::{FlushError, PublishError};
use async_nats::{Client, HeaderMap, SubscribeError, Subscriber};
use muster_channel::{Channel, KeyExchange, ProtocolVersion, Publisher, SealError, Sender, Side};
use muster_schemas::cose::Kind;
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{ChannelAnswer, ChannelRefusal, ChannelRefusalCause, KIND_HEADER};
use muster_schemas::{ChannelId, Hash, SigningKey, codec};
use tokio::sync::watch;

/// The reason why a channel could not be created, or could not be moved to a new connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// There are no keys for the channel.
    #[error(transparent)]
    Keys(#[from] SealError),
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// The response could not be sent.
    #[error(transparent)]
    Respond(#[from] PublishError),
}

/// An open that awaits its response.
pub(super) struct Opening {
    pub(super) client: Client,
    /// The current connection, as long as the agent runs.
    pub(super) link: watch::Receiver<Option<Publisher>>,
    pub(super) subjects: DeviceSubjects,
    /// Key that seals the response.
    pub(super) key: SigningKey,
    pub(super) channel: ChannelId,
    /// SHA-256 of the sealed open.
    pub(super) open: Hash,
    /// The server's public key of the channel.
    pub(super) server_key: Vec<u8>,
}

impl Opening {
    /// Refuses the open.
    pub(super) async fn refuse(self, cause: ChannelRefusalCause, reason: String) {
        tracing::info!(channel = %self.channel, ?cause, reason, "refused to open a channel");
        let refusal = Some(ChannelRefusal { cause, reason });
        if let Err(error) = self.respond(Vec::new(), refusal).await {
            tracing::warn!(
                channel = %self.channel,
                problem = error.to_string(),
                "failed to send the refusal of a channel"
            );
        }
    }

    /// Accepts the open. When this returns, the server may send.
    ///
    /// # Errors
    /// When the channel could not be created. The server is notified if possible.
    pub(super) async fn accept(self) -> Result<Channel, OpenError> {
        let half = KeyExchange::new()?;
        let ours = half.public().to_vec();
        let keys = match half.agree(Side::Device, &self.server_key, &self.open) {
            Ok(keys) => keys,
            Err(error) => {
                self.refuse(ChannelRefusalCause::Invalid, error.to_string()).await;
                return Err(error.into());
            }
        };
        // Subscribe before responding: the server may send as soon as it has the response.
        let (down, up) =
            (self.subjects.channel_down(self.channel), self.subjects.channel_up(self.channel));
        let subscription = subscribe(&self.client, down).await?;
        self.respond(ours, None).await?;
        let channel = Channel::start(self.client, up, subscription, keys, ProtocolVersion::V2);
        let down = self.subjects.channel_down(self.channel);
        tokio::spawn(follow(self.link, channel.sender.clone(), down));
        Ok(channel)
    }

    async fn respond(
        &self,
        key: Vec<u8>,
        refusal: Option<ChannelRefusal>,
    ) -> Result<(), PublishError> {
        let (channel, open) = (self.channel, self.open);
        let wide = refusal.is_none();
        let response = ChannelAnswer { channel, open, key, refused: refusal, wide };
        let sealed = self.key.seal(Kind::Opened, codec::encode(&response));
        let mut headers = HeaderMap::new();
        headers.insert(KIND_HEADER, "opened");
        let subject = self.subjects.channel_up(self.channel);
        self.client.publish_with_headers(subject, headers, sealed.into()).await
    }
}

/// Subscribes, and returns when the broker has the subscription.
async fn subscribe(client: &Client, subject: String) -> Result<Subscriber, OpenError> {
    let subscription = client.subscribe(subject).await?;
    client.flush().await?;
    Ok(subscription)
}

/// Moves a channel to each new connection of the agent, until the channel has ended.
async fn follow(mut link: watch::Receiver<Option<Publisher>>, sender: Sender, down: String) {
    loop {
        tokio::select! {
            () = sender.closed() => return,
            changed = link.changed() => if changed.is_err() {
                return;
            },
        }
        let Some(client) = link.borrow_and_update().as_ref().map(|link| link.client().clone())
        else {
            continue;
        };
        match subscribe(&client, down.clone()).await {
            Ok(subscription) => sender.switch_connection(client, subscription),
            // The connection may be lost again already; otherwise the channel times out.
            Err(error) => tracing::debug!(%error, "failed to move a channel to the new connection"),
        }
    }
}
