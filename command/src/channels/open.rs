//! Opening of channels: a signed order to the device, its signed response, and keys that only both
//! have.

use std::time::Duration;

use futures::StreamExt;
use muster_channel::{Channel, KeyExchange, ProtocolVersion, SealError, Side};
use muster_schemas::cose::{Kind, Unverified};
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{ChannelAnswer, ChannelOpen, ChannelRefusalCause, KIND_HEADER, Purpose};
use muster_schemas::{ChannelId, DeviceId, Hash, ProjectId, StreamName, codec};
use uuid::Uuid;

use super::ports::Channels;
use crate::clock::now;
use crate::domain::Rejection;
use crate::domain::device::Device;
use crate::error::CommandError;

/// Timeout of a device's response; its own connection to another host may take as long.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
/// Interval between repetitions of an order. A device may have connected a moment ago, and ignores
/// orders until it has received the welcome to its hello. It opens a channel once, even if the
/// order is repeated.
const RESEND_INTERVAL: Duration = Duration::from_secs(2);
/// Validity of an order to open a channel: longer than the response timeout,
/// because the device measures from its last hello, and the clocks of two servers differ.
const ORDER_TTL: Duration = Duration::from_secs(45);

/// A channel could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log, the keys or the broker failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The device refused.
    #[error("the device refuses: {0}")]
    Refused(String),
    /// The session no longer exists on the device.
    #[error("the session has ended: {0}")]
    SessionEnded(String),
    /// The device did not respond.
    #[error("the device did not respond within {} s; is it online?", RESPONSE_TIMEOUT.as_secs())]
    NoResponse,
    /// The response is not this device's.
    #[error("the response is not from the device: {0}")]
    InvalidResponse(String),
    /// Keys could not be generated.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl Channels {
    /// Opens a channel to a device.
    ///
    /// # Errors
    /// When the device does not exist, is offline or refuses, or when its response is invalid.
    pub async fn open_channel(
        &self,
        project: &ProjectId,
        device: DeviceId,
        actor: &str,
        purpose: Purpose,
    ) -> Result<Channel, OpenError> {
        let stream = StreamName::Device(device);
        let state = self.executor.load::<Device>(project, &stream).await?.state;
        if !state.exists() {
            return Err(CommandError::from(Rejection::NotFound("device")).into());
        }
        let subjects = DeviceSubjects::new(project, device);
        let channel = ChannelId(Uuid::new_v4());
        let away = |error: String| OpenError::from(CommandError::Broker(error));
        let half = KeyExchange::new()?;
        let is_there = matches!(purpose, Purpose::Attach { .. } | Purpose::End { .. });
        let issued_at = now();
        let open = ChannelOpen {
            project: project.clone(),
            device,
            epoch: state.epoch,
            channel,
            issued_at,
            expires_at: issued_at + ORDER_TTL,
            actor: actor.to_owned(),
            key: half.public().to_vec(),
            purpose,
        };
        let key = self.keys.operation_key(project).map_err(CommandError::from)?;
        let sealed = key.seal(Kind::Open, codec::encode(&open));
        let hash = Hash::of(&sealed);
        let subject = subjects.channel_up(channel);
        let mut up = self.nats.subscribe(subject).await.map_err(|error| away(error.to_string()))?;
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(KIND_HEADER, "open");
        let (commands, sealed) = (subjects.commands(), bytes::Bytes::from(sealed));
        let asking = async {
            loop {
                let (commands, headers) = (commands.clone(), headers.clone());
                let sent = self.nats.publish_with_headers(commands, headers, sealed.clone()).await;
                sent.map_err(|error| away(error.to_string()))?;
                if let Ok(response) = tokio::time::timeout(RESEND_INTERVAL, up.next()).await {
                    return response.ok_or(OpenError::NoResponse);
                }
            }
        };
        let response = tokio::time::timeout(RESPONSE_TIMEOUT, asking).await;
        let response = response.map_err(|_| OpenError::NoResponse)??;
        let response =
            self.verify_response(project, device, channel, hash, &response.payload).await?;
        if let Some(refusal) = response.refused {
            let has_ended = is_there && refusal.cause == ChannelRefusalCause::Invalid;
            let error = if has_ended { OpenError::SessionEnded } else { OpenError::Refused };
            return Err(error(refusal.reason));
        }
        let keys = half.agree(Side::Server, &response.key, &hash)?;
        let down = subjects.channel_down(channel);
        let dialect = if response.wide { ProtocolVersion::V2 } else { ProtocolVersion::V1 };
        Ok(Channel::start(self.nats.clone(), down, up, keys, dialect))
    }

    /// Verifies that the response is the device's own, and to this order.
    async fn verify_response(
        &self,
        project: &ProjectId,
        device: DeviceId,
        channel: ChannelId,
        open: Hash,
        sealed: &[u8],
    ) -> Result<ChannelAnswer, OpenError> {
        let wrong = |what: &dyn std::fmt::Display| OpenError::InvalidResponse(what.to_string());
        let message = Unverified::parse(sealed).map_err(|error| wrong(&error))?;
        let known = self.device_keys.load(project, device).await?;
        let key = known.access.key(&message.kid());
        let key =
            key.ok_or_else(|| wrong(&"it is signed by a key that the device does not have"))?;
        let payload = message.verify(Kind::Opened, key).map_err(|error| wrong(&error))?;
        let response: ChannelAnswer = codec::decode(&payload).map_err(|error| wrong(&error))?;
        if (response.channel, response.open) != (channel, open) {
            return Err(wrong(&"it is for another request"));
        }
        Ok(response)
    }
}
