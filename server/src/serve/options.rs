//! Options of a server: from flags, from `MUSTER_*` variables, or set by `muster up`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use muster_blobs::BlobLocation;
use muster_command::channels::Recording;
use muster_command::keys::{Certificates, KeyStore, Listener};
use muster_ingest::streams::Copies;
use muster_metric_store::StoreSettings;
use muster_schemas::units::parse_seconds;

use super::connections::ConnectionLimits;
use super::cors::CorsOrigins;
use super::limits::UnauthenticatedRate;
use super::metric_limits::MetricLimits;
use super::names::certificate_names;
use super::proxies::TrustedProxies;
use crate::InvalidOption;
use crate::metric_store::InfluxArgs;
use crate::otlp::OtlpArgs;

/// Roles that a process can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Store events and metrics from the broker; track presence
    Ingest,
    /// Serve the write API, enrollment and credentials
    Command,
    /// Run projections and serve the read API
    Query,
    /// Run all roles
    All,
}

/// The roles of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roles(pub(crate) Role);

impl Roles {
    pub(crate) fn has(self, role: Role) -> bool {
        self.0 == Role::All || self.0 == role
    }
}

/// Options of the roles of one process.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    pub(crate) roles: Roles,
    pub(crate) postgres_url: String,
    pub(crate) nats_urls: Vec<String>,
    /// Number of replicas of each JetStream stream.
    pub(crate) copies: Copies,
    /// The metric store, which ingest writes and query reads; `None` when no role of the process
    /// needs it.
    pub(crate) metric_store: Option<StoreSettings>,
    pub(crate) keys: PathBuf,
    /// Location of data that is too large or too private for events.
    pub(crate) blobs: BlobLocation,
    pub(crate) listen: Option<SocketAddr>,
    /// Names in the server's certificate.
    pub(crate) names: Vec<String>,
    /// Broker addresses that devices receive.
    pub(crate) device_servers: Vec<String>,
    /// URL of the command role, when it runs in another process.
    pub(crate) command_url: Option<String>,
    /// Timeout after which a device without messages is offline.
    pub(crate) offline_after: Duration,
    /// Maximum unauthenticated requests per second per client address.
    pub(crate) unauthenticated_rate: NonZeroU32,
    /// Limits on the connections to the listener.
    pub(crate) connections: ConnectionLimits,
    /// Limits on the requests of one token to query.
    pub(crate) token_limits: TokenLimits,
    /// Limits on the metrics of one device.
    pub(crate) metric_limits: MetricLimits,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub(crate) proxies: TrustedProxies,
    /// Origins whose pages may use the API.
    pub(crate) cors: CorsOrigins,
    /// Roles whose shells are recorded.
    pub(crate) recording: Recording,
    /// Folder of agents for other architectures, for the installer.
    pub(crate) agents: Option<PathBuf>,
}

/// Roles whose shells are recorded.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct RecordShells {
    /// Roles whose shells must be recorded
    ///
    /// A shell that must be recorded opens only if its recording can be stored.
    #[arg(long, env = "MUSTER_RECORD_SHELLS", default_value = "operators", value_name = "OF")]
    pub(crate) record_shells: RecordedRoles,
}

/// Roles whose shells are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordedRoles {
    /// Those of operators; admins may use --no-record
    Operators,
    /// Those of all roles, including admins
    Everyone,
}

impl From<RecordedRoles> for Recording {
    fn from(roles: RecordedRoles) -> Self {
        match roles {
            RecordedRoles::Operators => Self::Operators,
            RecordedRoles::Everyone => Self::Everyone,
        }
    }
}

/// Limits on the requests of one token to query.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct TokenLimits {
    /// Role query: maximum number of live streams and downloads of one token
    ///
    /// A process serves at most 1000 for all tokens.
    #[arg(long, env = "MUSTER_STREAMS_PER_TOKEN", default_value = "100", value_name = "N")]
    pub(crate) streams_per_token: NonZeroUsize,
    /// Role query: maximum multi-page lists by last_seen_at per minute and token
    ///
    /// Each of them reads and sorts all devices of its project.
    #[arg(long, env = "MUSTER_LIST_WALKS_PER_MINUTE", default_value = "30", value_name = "N")]
    pub(crate) list_walks_per_minute: NonZeroU32,
}

/// Default port of the API.
pub const DEFAULT_PORT: u16 = 8443;

/// Default address of the API.
pub(super) const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT);

/// An address to listen on, with an optional port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub(crate) ip: IpAddr,
    pub(crate) port: Option<u16>,
}

impl Listen {
    /// Returns the address, with this port if it has none.
    #[must_use]
    pub fn with_port(self, default: u16) -> SocketAddr {
        SocketAddr::new(self.ip, self.port.unwrap_or(default))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.ip, port)),
            None => write!(f, "{}", self.ip),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
            return Ok(Self { ip, port: None });
        }
        text.parse::<SocketAddr>()
            .map(|address| Self { ip: address.ip(), port: Some(address.port()) })
            .map_err(|_| {
                format!("'{text}' is not an IP address; write for example 0.0.0.0 or 0.0.0.0:8443")
            })
    }
}

/// Parses the timeout after which a device is offline: three of the broker's ping intervals, each
/// at least one second.
pub(crate) fn parse_offline_after(text: &str) -> Result<Duration, String> {
    match parse_seconds(text)? {
        0..3 => Err("must be at least 3s".to_owned()),
        enough => Ok(Duration::from_secs(enough.into())),
    }
}

impl ServeOptions {
    /// Returns the metric store, or an error when a role needs it and it is not configured.
    pub(crate) fn needed_metric_store(&self) -> Result<&StoreSettings> {
        self.metric_store.as_ref().context("this role needs a metric store; give --influx-url")
    }

    /// Returns the role whose key folder is used for what the process needs once.
    pub(super) fn main_role(&self) -> &'static str {
        if self.roles.has(Role::Query) { "query" } else { "ingest" }
    }

    pub(crate) fn certificates(&self, keys: &KeyStore) -> Result<Certificates> {
        let now = std::time::SystemTime::now().into();
        // Only the listener that devices and clients connect to uses the pinned key.
        let is_front = self.roles.has(Role::Query);
        let listener = if is_front { Listener::Https } else { Listener::Command };
        Ok(keys.certificates(listener, &self.names, now)?)
    }
}

/// Run one role, or all roles, with existing backing servers
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Role of this process
    #[arg(long, value_enum, default_value = "all", env = "MUSTER_ROLE")]
    role: Role,
    /// PostgreSQL: postgres://user@host:port/database; with a password, use the variable
    #[arg(long, env = "MUSTER_POSTGRES_URL", hide_env_values = true)]
    postgres_url: String,
    /// NATS server: tls://host:port; for a cluster, a list separated by commas
    #[arg(long, env = "MUSTER_NATS_URL", value_delimiter = ',', required = true)]
    nats_url: Vec<String>,
    /// NATS servers as devices reach them; 0.0.0.0 is replaced by the host of the API
    #[arg(long, env = "MUSTER_DEVICE_NATS_URL", value_delimiter = ',')]
    device_nats_url: Vec<String>,
    /// Role ingest: replicas of each stream in a NATS cluster: 1, 3 or 5
    #[arg(long, env = "MUSTER_STREAM_COPIES", default_value = "1", value_parser = parse_copies)]
    stream_copies: usize,
    /// InfluxDB: http://host:port; not needed by the role command
    #[arg(long, env = "MUSTER_INFLUX_URL")]
    influx_url: Option<String>,
    #[command(flatten)]
    influx: InfluxArgs,
    /// Key folder
    #[arg(long, env = "MUSTER_KEYS")]
    keys: PathBuf,
    /// Roles command and query: location of blobs; default: `blobs` next to --keys
    ///
    /// Blobs are the output of programs and private data of operations. The location is a folder
    /// that both roles share, or s3://BUCKET/PREFIX with the usual AWS_* variables.
    #[arg(long, env = "MUSTER_BLOBS", value_name = "PLACE")]
    blobs: Option<BlobLocation>,
    /// Address of the listener; default port: 8443
    ///
    /// Roles with an API listen on 127.0.0.1:8443 by default. The role ingest serves only /healthz,
    /// /readyz and /metrics, and listens only if this option is set.
    #[arg(long, env = "MUSTER_LISTEN", value_name = "ADDRESS[:PORT]")]
    listen: Option<Listen>,
    /// Role query: URL of a command role that serves the write API
    #[arg(long, env = "MUSTER_COMMAND_URL")]
    command_url: Option<String>,
    /// Role query: folder of agents for the installer
    ///
    /// The files are named `muster-agent-<architecture>`, as `uname -m` prints it. The agent for
    /// this machine is found next to this program.
    #[arg(long, env = "MUSTER_AGENTS")]
    agents: Option<PathBuf>,
    /// Role ingest: timeout after which a device without messages is offline
    #[arg(long, env = "MUSTER_OFFLINE_AFTER", default_value = "60s", value_parser = parse_offline_after)]
    offline_after: Duration,
    #[command(flatten)]
    joins: UnauthenticatedRate,
    #[command(flatten)]
    connections: ConnectionLimits,
    #[command(flatten)]
    token_limits: TokenLimits,
    #[command(flatten)]
    metric_limits: MetricLimits,
    #[command(flatten)]
    proxies: TrustedProxies,
    #[command(flatten)]
    cors: CorsOrigins,
    #[command(flatten)]
    record: RecordShells,
    /// Additional names in the server's certificate
    #[arg(long, env = "MUSTER_NAMES", value_delimiter = ',')]
    name: Vec<String>,
    #[command(flatten)]
    /// Export of spans.
    pub otlp: OtlpArgs,
}

/// Returns the default location of blobs: next to the folder of all keys, of which a role's key
/// folder may be `roles/<role>`.
fn default_blob_location(keys: &Path) -> BlobLocation {
    let is_roles = |parent: &&Path| parent.file_name().is_some_and(|name| name == "roles");
    let all = keys.parent().filter(is_roles).and_then(Path::parent).unwrap_or(keys);
    BlobLocation::Folder(all.parent().unwrap_or(all).join("blobs"))
}

fn parse_copies(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("use 1, 3 or 5: more than half of them must be available".to_owned()),
    }
}

impl TryFrom<ServeArgs> for ServeOptions {
    type Error = InvalidOption;

    fn try_from(args: ServeArgs) -> Result<Self, InvalidOption> {
        if args.influx_url.is_none() && args.role != Role::Command {
            return Err(InvalidOption("this role needs --influx-url http://host:port".to_owned()));
        }
        let listen = args.listen.map(|listen| listen.with_port(DEFAULT_PORT));
        let device_servers = if args.device_nats_url.is_empty() {
            args.nats_url.clone()
        } else {
            args.device_nats_url
        };
        Ok(Self {
            roles: Roles(args.role),
            postgres_url: args.postgres_url,
            nats_urls: args.nats_url,
            copies: Copies(args.stream_copies),
            metric_store: args.influx_url.map(|url| args.influx.settings(&url)),
            blobs: args.blobs.unwrap_or_else(|| default_blob_location(&args.keys)),
            keys: args.keys,
            names: certificate_names(listen.unwrap_or(DEFAULT_ADDRESS), args.name),
            listen,
            device_servers,
            command_url: args.command_url,
            agents: args.agents,
            offline_after: args.offline_after,
            unauthenticated_rate: args.joins.joins_per_second,
            connections: args.connections,
            token_limits: args.token_limits,
            metric_limits: args.metric_limits,
            proxies: args.proxies,
            cors: args.cors,
            recording: args.record.record_shells.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_on_one_machine_share_a_blob_folder() {
        for (keys, blobs) in [
            ("/srv/keys", "/srv/blobs"),
            ("/srv/keys/roles/query", "/srv/blobs"),
            ("/var/lib/muster/query", "/var/lib/muster/blobs"),
        ] {
            assert_eq!(
                default_blob_location(Path::new(keys)),
                BlobLocation::Folder(blobs.into()),
                "{keys}"
            );
        }
    }

    #[test]
    fn an_address_is_parsed_with_and_without_a_port() {
        for (text, expected) in [
            ("127.0.0.2", Some("127.0.0.2:1")),
            ("0.0.0.0:99", Some("0.0.0.0:99")),
            ("::1", Some("[::1]:1")),
            ("[::1]", Some("[::1]:1")),
            ("[::]:99", Some("[::]:99")),
            ("localhost", None),
            ("", None),
        ] {
            let found = text.parse::<Listen>().ok().map(|listen| listen.with_port(1).to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
