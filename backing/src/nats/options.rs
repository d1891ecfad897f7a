//! Options of a nats-server.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::child::{Progress, Restart};
use crate::find::SearchPath;

/// A certificate and its key, as PEM files that nats-server reads at start and at a reload.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA of clients' certificates; `None` requests no certificate from clients.
    pub client_ca: Option<PathBuf>,
}

/// The websocket listener. It uses the server's TLS, and none if the server has none.
#[derive(Debug, Clone, Default)]
pub struct Websocket {
    /// Its port; a free one if `None`.
    pub port: Option<u16>,
}

/// A preloaded account.
#[derive(Debug, Clone)]
pub struct Preload {
    /// The account's public key (`A…`).
    pub account: String,
    /// Its JWT, signed by the operator.
    pub jwt: String,
}

/// Operator mode: JWTs define who may connect.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The operator's JWT.
    pub operator: String,
    /// The public key of the system account (`A…`), one of `preload`.
    pub system_account: String,
    /// Preloaded accounts.
    pub preload: Vec<Preload>,
}

/// JetStream's limits.
#[derive(Debug, Clone)]
pub struct JetStream {
    /// Maximum size of streams in memory, in bytes.
    pub max_memory: u64,
    /// Maximum size of streams on disk, in bytes.
    pub max_file: u64,
    /// Interval at which streams are synced to disk, in nats-server's syntax (`2m`, `always`).
    pub sync_interval: String,
}

impl Default for JetStream {
    fn default() -> Self {
        Self { max_memory: 256 << 20, max_file: 10 << 30, sync_interval: "10s".into() }
    }
}

/// Options of a [`super::NatsServer`].
#[derive(Clone)]
pub struct NatsOptions {
    /// Its folder: `jetstream/`, `accounts/`, `logs/`, the configuration. Created if it is missing.
    pub dir: PathBuf,
    /// The address to listen on; loopback unless devices on other machines must reach it.
    pub listen: IpAddr,
    /// The port for clients; a free one if `None`.
    pub port: Option<u16>,
    /// A listener for clients over websocket.
    pub websocket: Option<Websocket>,
    /// TLS on every listener.
    pub tls: Option<Tls>,
    /// Operator mode.
    pub identity: Option<Identity>,
    /// JetStream's limits.
    pub jetstream: JetStream,
    /// Silence after which a client's connection is closed.
    pub silence_timeout: Duration,
    /// The server's public name.
    pub server_name: String,
    /// Maximum size of a message, in bytes.
    pub max_payload: u32,
    /// Additional configuration, which overrides the generated one: `accounts`, `mappings` and
    /// settings of tests.
    pub extra: Map<String, Value>,
    /// Reaction to a crash.
    pub restart: Restart,
    /// Search path of the binary.
    pub search_path: SearchPath,
    /// Called when the start is slow: large streams are checked first.
    pub on_progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl NatsOptions {
    /// A server in `dir` on a free loopback port, without identity, TLS and websocket, with a
    /// binary found through the environment, always restarted.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            listen: Ipv4Addr::LOCALHOST.into(),
            port: None,
            websocket: None,
            tls: None,
            identity: None,
            jetstream: JetStream::default(),
            silence_timeout: Duration::from_secs(60),
            server_name: "muster".into(),
            max_payload: 1 << 20,
            extra: Map::new(),
            restart: Restart::default(),
            search_path: SearchPath::from_env(),
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
