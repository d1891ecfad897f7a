//! The connection to the broker: connect, renew the credentials, reconnect.
//!
//! `crate::session` makes all decisions about events.

mod connect;
mod drive;
mod keep;
mod tunnel;

pub use connect::{ConnectError, broker_addresses};
pub(crate) use keep::keep_connected;
pub(crate) use tunnel::{open_listener_tunnel, open_proxy, proxy_for, display as shown_proxy};
