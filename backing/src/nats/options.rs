//! What may be chosen about a nats-server.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::child::{Progress, Restart};
use crate::find::Places;

/// A certificate and its key, as PEM files that nats-server reads at start and at a reload.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA that clients' certificates must be signed by; `None` asks clients for none.
    pub client_ca: Option<PathBuf>,
}

/// The websocket listener. It uses the server's TLS, and none when the server has none.
#[derive(Debug, Clone, Default)]
pub struct Websocket {
    /// Its port; chosen when `None`.
    pub port: Option<u16>,
}

/// An account known from the start.
#[derive(Debug, Clone)]
pub struct Preload {
    /// The account's public key (`A…`).
    pub account: String,
    /// Its JWT, signed by the operator.
    pub jwt: String,
}

/// Operator mode: who may connect is said by JWTs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The operator's JWT.
    pub operator: String,
    /// The public key of the system account (`A…`), one of `preload`.
    pub system_account: String,
    /// Accounts known from the start.
    pub preload: Vec<Preload>,
}

/// JetStream's limits.
#[derive(Debug, Clone)]
pub struct JetStream {
    /// For streams in memory, in bytes.
    pub max_memory: u64,
    /// For streams on disk, in bytes.
    pub max_file: u64,
    /// How often streams are synced to disk, as nats-server writes it (`2m`, `always`).
    pub sync_interval: String,
}

impl Default for JetStream {
    fn default() -> Self {
        Self { max_memory: 256 << 20, max_file: 10 << 30, sync_interval: "10s".into() }
    }
}

/// How to start a [`super::NatsServer`].
#[derive(Clone)]
pub struct NatsOptions {
    /// Its folder: `jetstream/`, `accounts/`, `logs/`, the configuration. Made when missing.
    pub dir: PathBuf,
    /// The address to listen on; loopback unless devices elsewhere are to reach it.
    pub listen: IpAddr,
    /// The port for clients; chosen when `None`.
    pub port: Option<u16>,
    /// A listener for clients over websocket.
    pub websocket: Option<Websocket>,
    /// TLS on every listener.
    pub tls: Option<Tls>,
    /// Operator mode.
    pub identity: Option<Identity>,
    /// JetStream's limits.
    pub jetstream: JetStream,
    /// The silence after which a client's connection is given up.
    pub silence: Duration,
    /// The server's name, which it tells everybody.
    pub server_name: String,
    /// The largest message, in bytes.
    pub max_payload: u32,
    /// More configuration, merged over ours: `accounts`, `mappings` and whatever a test needs.
    pub extra: Map<String, Value>,
    /// What a crash is answered with.
    pub restart: Restart,
    /// Where the binary is looked for.
    pub places: Places,
    /// Told when the start is slow: large streams are checked first.
    pub on_progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl NatsOptions {
    /// A server in `dir` on a free loopback port, without identity, TLS and websocket, found by
    /// the environment, restarted always.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            listen: Ipv4Addr::LOCALHOST.into(),
            port: None,
            websocket: None,
            tls: None,
            identity: None,
            jetstream: JetStream::default(),
            silence: Duration::from_secs(60),
            server_name: "muster".into(),
            max_payload: 1 << 20,
            extra: Map::new(),
            restart: Restart::default(),
            places: Places::from_env(),
            on_progress: None,
        }
    }
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions")
            .field("dir", &self.dir)
            .field("listen", &self.listen)
            .field("port", &self.port)
            .field("websocket", &self.websocket)
            .field("tls", &self.tls)
            .field("server_name", &self.server_name)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}
