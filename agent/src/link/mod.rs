//! The connection to the broker: connect, renew the credentials, reconnect.
//!
//! `crate::session` makes all decisions about events.

mod connect;
mod driver;
mod reconnect;
mod tunnel;

pub use connect::{ConnectError, broker_addresses};
pub(crate) use reconnect::keep_connected;
pub(crate) use tunnel::{display as shown_proxy, open_listener_tunnel, open_proxy, proxy_for};
