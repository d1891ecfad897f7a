//! Handling of received opens.

use std::sync::Arc;

use async_nats::Client;
use muster_schemas::codec::DecodeError;
use muster_schemas::cose::{self, Kind};
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{ChannelOpen, ChannelRefusalCause, Purpose};
use muster_schemas::{ChannelId, DeviceId, Epoch, Hash, ProjectId, SigningKey, Timestamp, codec};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::opening::Opening;
use super::options::MAX_CHANNELS;
use super::registry::Channels;
use super::{files, open_record, shell, tcp};
use crate::clock::ServerClock;
use crate::connection::Connection;
use crate::identity::{CurrentIdentity, Identity, NotForDevice, is_expired, is_for};
use crate::outbox::{IgnoredMessage, Outbox};
use crate::store::Store;

/// The fields that all opens have, of any kind: so an open with a kind that is unknown to this
/// agent can be refused by its id.
#[derive(Deserialize)]
struct Address {
    project: ProjectId,
    device: DeviceId,
    epoch: Epoch,
    channel: ChannelId,
    expires_at: Timestamp,
    #[serde(with = "serde_bytes")]
    key: Vec<u8>,
}

/// Opens the channels that the servers request.
pub(crate) struct ChannelOpener {
    pub(crate) identity: Arc<Identity>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<ServerClock>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) channels: Arc<Channels>,
}

impl ChannelOpener {
    /// Handles an open of a channel; `key` seals the response. `is_greeted`: whether a hello of
    /// this connection got its welcome.
    ///
    /// # Errors
    /// The reason why the open was ignored.
    pub(crate) fn handle(
        &self,
        client: &Client,
        key: SigningKey,
        message: &[u8],
        is_greeted: bool,
    ) -> Result<(), IgnoredMessage> {
        let plain = cose::open(message, Kind::Open, &self.identity.operation_key()?)?;
        let address: Address = codec::decode(&plain)?;
        let identity = &self.identity;
        let epoch = self.outbox.view().epoch;
        let me = CurrentIdentity { project: &identity.project, device: identity.device, epoch };
        is_for(&me, &address.project, address.device, address.epoch)?;
        let now = self.clock.confirmed_time().filter(|_| is_greeted);
        let now = now.ok_or(NotForDevice::NoHello)?;
        if is_expired(address.expires_at, Some(now))? {
            return Err(IgnoredMessage::Expired);
        }
        let open = codec::decode::<ChannelOpen>(&plain);
        // A shell's effects must not happen twice; a second TCP connection without data is
        // harmless.
        let session = match &open {
            Ok(ChannelOpen { purpose: Purpose::Shell { session, .. }, .. }) => Some(*session),
            _ => None,
        };
        // A shell without a free slot was never started, and is not recorded as an open session.
        let permit = self.channels.acquire_permit();
        let session = session.filter(|_| permit.is_some());
        let noted = open_record::record_open(
            &self.store,
            address.channel,
            address.expires_at,
            now,
            session,
        );
        if !noted? {
            return Err(IgnoredMessage::Repeated);
        }
        let opening = Opening {
            client: client.clone(),
            link: self.connection.subscribe(),
            subjects: DeviceSubjects::new(&identity.project, identity.device),
            key,
            channel: address.channel,
            open: Hash::of(message),
            server_key: address.key,
        };
        start(&self.channels, opening, open, permit);
        Ok(())
    }
}

/// Processes an open that gets a response.
fn start(
    channels: &Arc<Channels>,
    opening: Opening,
    open: Result<ChannelOpen, DecodeError>,
    permit: Option<OwnedSemaphorePermit>,
) {
    let channels = Arc::clone(channels);
    let tasks = channels.tasks.clone();
    let no = |opening: Opening, cause, reason| {
        tasks.spawn(opening.refuse(cause, reason));
    };
    let open = match open {
        Ok(open) => open,
        Err(error) => {
            let reason = format!(
                "muster-agent {} does not support this request: {error}",
                env!("CARGO_PKG_VERSION")
            );
            return no(opening, ChannelRefusalCause::Unsupported, reason);
        }
    };
    let Some(permit) = permit else {
        let reason = format!("the limit of {MAX_CHANNELS} open channels on this device is reached");
        return no(opening, ChannelRefusalCause::Busy, reason);
    };
    let (channel, actor) = (open.channel, open.actor);
    match open.purpose {
        Purpose::Tcp { host, port } => {
            tracing::info!(%channel, actor, host, port, "a connection was requested");
            tasks.spawn(tcp::open(channels, opening, permit, host, port));
        }
        Purpose::Files { path, write } => {
            tracing::info!(%channel, actor, path, write, "a file transfer was requested");
            tasks.spawn(files::open(channels, opening, permit, path, write));
        }
        Purpose::Shell { session, user, command, term, size, grace_seconds } => {
            tracing::info!(%channel, actor, %session, user, "a shell was requested");
            let options = shell::ShellOptions { session, user, command, term, size, grace_seconds };
            tasks.spawn(shell::open(channels, opening, permit, options));
        }
        Purpose::Attach { session, watch, size } => {
            tracing::info!(%channel, actor, %session, watch, "a client attaches to a session");
            tasks.spawn(shell::attach(channels, opening, permit, session, watch, size));
        }
        Purpose::End { session } => {
            tracing::info!(%channel, actor, %session, "the end of a session was requested");
            tasks.spawn(shell::end(channels, opening, permit, session));
        }
    }
}
