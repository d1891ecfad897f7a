//! The response to an open: a refusal, or the device's half of the keys, followed by the channel.

use async_nats::{Client, HeaderMap};
use muster_channel::{Channel, KeyExchange, ProtocolVersion, Publisher, Sender, Side};
use muster_schemas::cose::Kind;
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{ChannelAnswer, ChannelRefusal, ChannelRefusalCause, KIND_HEADER};
use muster_schemas::{ChannelId, Hash, SigningKey, codec};
use tokio::sync::watch;

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
        if let Err(problem) = self.respond(Vec::new(), refusal).await {
            tracing::warn!(
                channel = %self.channel,
                problem,
                "failed to send the refusal of a channel"
            );
        }
    }

    /// Accepts the open. When this returns, the server may send.
    ///
    /// # Errors
    /// When the channel could not be created, with a message. The server is notified if possible.
    pub(super) async fn accept(self) -> Result<Channel, String> {
        let half = KeyExchange::new().map_err(|error| error.to_string())?;
        let ours = half.public().to_vec();
        let keys = match half.agree(Side::Device, &self.server_key, &self.open) {
            Ok(keys) => keys,
            Err(error) => {
                self.refuse(ChannelRefusalCause::Invalid, error.to_string()).await;
                return Err(error.to_string());
            }
        };
        // Subscribe before responding: the server may send as soon as it has the response.
        let (down, up) =
            (self.subjects.channel_down(self.channel), self.subjects.channel_up(self.channel));
        let subscription = self.client.subscribe(down).await.map_err(|error| error.to_string())?;
        self.client.flush().await.map_err(|error| error.to_string())?;
        self.respond(ours, None).await?;
        let channel = Channel::start(self.client, up, subscription, keys, ProtocolVersion::V2);
        let down = self.subjects.channel_down(self.channel);
        tokio::spawn(follow(self.link, channel.sender.clone(), down));
        Ok(channel)
    }

    async fn respond(&self, key: Vec<u8>, refusal: Option<ChannelRefusal>) -> Result<(), String> {
        let (channel, open) = (self.channel, self.open);
        let wide = refusal.is_none();
        let response = ChannelAnswer { channel, open, key, refused: refusal, wide };
        let sealed = self.key.seal(Kind::Opened, codec::encode(&response));
        let mut headers = HeaderMap::new();
        headers.insert(KIND_HEADER, "opened");
        let subject = self.subjects.channel_up(self.channel);
        let sent = self.client.publish_with_headers(subject, headers, sealed.into()).await;
        sent.map_err(|error| error.to_string())
    }
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
        let subscription = match client.subscribe(down.clone()).await {
            Ok(subscription) => {
                client.flush().await.map(|()| subscription).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match subscription {
            Ok(subscription) => sender.switch_connection(client, subscription),
            // The connection may be lost again already; otherwise the channel times out.
            Err(error) => tracing::debug!(error, "failed to move a channel to the new connection"),
        }
    }
}
