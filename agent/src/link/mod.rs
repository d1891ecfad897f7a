//! The connection to the broker: connect, renew the credentials, reconnect.
//!
//! `crate::session` makes all decisions about events.

mod connect;
mod credentials;
mod driver;
mod keep_alive;
mod lost;
mod reconnect;
mod renewal;
mod tunnel;

use std::sync::Arc;

pub use connect::{ConnectError, broker_addresses};
pub(crate) use credentials::BrokerCredentials;
pub(crate) use reconnect::keep_connected;
pub(crate) use tunnel::{
    TunnelError, display as shown_proxy, open_listener_tunnel, open_proxy, proxy_for,
};

use crate::channels::ChannelOpener;
use crate::clock::ServerClock;
use crate::config::DeviceConfig;
use crate::connection::Connection;
use crate::identity::Identity;
use crate::operations::Orders;
use crate::outbox::Recorder;

/// What the connection needs: the device's credentials, the events to send, and the receivers of
/// the servers' messages.
pub(crate) struct Link {
    pub(crate) identity: Arc<Identity>,
    pub(crate) credentials: BrokerCredentials,
    pub(crate) recorder: Recorder,
    pub(crate) connection: Arc<Connection>,
    pub(crate) clock: Arc<ServerClock>,
    pub(crate) config: Arc<DeviceConfig>,
    pub(crate) orders: Arc<Orders>,
    pub(crate) channels: ChannelOpener,
}
