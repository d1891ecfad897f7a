//! nats-server with JetStream: its configuration, its start, its readiness.
//!
//! With an [`Identity`] it runs in operator mode (accounts and users are JWTs); without one it
//! accepts any client on loopback, for simple tests. The JWTs are created elsewhere.

mod config;
mod options;
mod server;

pub use config::{MIN_VERSION, configuration};
pub use options::{Identity, JetStream, NatsOptions, Preload, Tls, Websocket};
pub use server::{NatsError, NatsServer};
