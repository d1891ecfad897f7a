//! What a server must be told: by flags, by `MUSTER_*` variables, or by what `muster up` has made.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use muster_command::keys::{Certificates, KeyStore};
use muster_ingest::metrics::StoreSettings;
use muster_query::influx::{InfluxCredentials, InfluxQueryOptions};

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// From the broker into the event log and the metric store; presence.
    Ingest,
    /// The write API, enrollment, credentials.
    Command,
    /// Projections and the read API.
    Query,
    /// All of them.
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

/// Where metrics go and come from.
#[derive(Clone, Debug)]
pub(crate) struct MetricStore {
    pub(crate) url: String,
    pub(crate) database: String,
    pub(crate) user: Option<(String, String)>,
    pub(crate) token: Option<(String, String)>,
}

impl MetricStore {
    pub(crate) fn store_settings(&self) -> StoreSettings {
        let mut settings = StoreSettings::new(&self.url, &self.database);
        if let Some((user, password)) = &self.user {
            settings.user = Some(user.clone());
            settings.password = Some(password.clone());
        }
        if let Some((org, token)) = &self.token {
            settings.org = Some(org.clone());
            settings.token = Some(token.clone());
        }
        settings
    }

    pub(crate) fn query_options(&self) -> Result<InfluxQueryOptions> {
        Ok(InfluxQueryOptions {
            url: self
                .url
                .parse()
                .with_context(|| format!("'{}' is not InfluxDB's URL", self.url))?,
            database: self.database.clone(),
            credentials: match (&self.token, &self.user) {
                (Some((_, token)), _) => InfluxCredentials::Token(token.clone()),
                (None, Some((user, password))) => {
                    InfluxCredentials::Password { user: user.clone(), password: password.clone() }
                }
                (None, None) => InfluxCredentials::Open,
            },
        })
    }
}

/// Everything that the roles are run with.
#[derive(Clone, Debug)]
pub(crate) struct ServeOptions {
    pub(crate) roles: Roles,
    pub(crate) postgres_url: String,
    pub(crate) nats_url: String,
    pub(crate) metric_store: MetricStore,
    pub(crate) keys: PathBuf,
    pub(crate) listen: SocketAddr,
    /// The names that the server's certificate is for.
    pub(crate) names: Vec<String>,
    /// The addresses of the broker that devices are told.
    pub(crate) device_servers: Vec<String>,
    /// The command role, when it is in another process.
    pub(crate) command_url: Option<String>,
    /// A device that was not heard for so long is offline.
    pub(crate) offline_after: Duration,
}

impl ServeOptions {
    pub(crate) fn certificates(&self, keys: &KeyStore) -> Result<Certificates> {
        let now = std::time::SystemTime::now().into();
        Ok(keys.certificates(&self.names, now)?)
    }
}

/// Runs one role, or all of them, against servers that are there already.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// What this process does
    #[arg(long, value_enum, default_value = "all", env = "MUSTER_ROLE")]
    role: Role,
    /// PostgreSQL: postgres://user:password@host:port/database
    #[arg(long, env = "MUSTER_POSTGRES_URL", hide_env_values = true)]
    postgres_url: String,
    /// The NATS server: tls://host:port
    #[arg(long, env = "MUSTER_NATS_URL")]
    nats_url: String,
    /// The NATS server as devices reach it; the host 0.0.0.0 means the host of the API
    #[arg(long, env = "MUSTER_DEVICE_NATS_URL")]
    device_nats_url: Vec<String>,
    /// InfluxDB: http://host:port
    #[arg(long, env = "MUSTER_INFLUX_URL")]
    influx_url: String,
    /// InfluxDB's database (1.x) or bucket (2.x, 3.x)
    #[arg(long, env = "MUSTER_INFLUX_DATABASE", default_value = "muster")]
    influx_database: String,
    /// InfluxDB 1.x: the user
    #[arg(long, env = "MUSTER_INFLUX_USER", requires = "influx_password")]
    influx_user: Option<String>,
    /// InfluxDB 1.x: the user's password
    #[arg(long, env = "MUSTER_INFLUX_PASSWORD", hide_env_values = true)]
    influx_password: Option<String>,
    /// InfluxDB 2.x and 3.x: the organization
    #[arg(long, env = "MUSTER_INFLUX_ORG", default_value = "muster")]
    influx_org: String,
    /// InfluxDB 2.x and 3.x: the token
    #[arg(long, env = "MUSTER_INFLUX_TOKEN", hide_env_values = true)]
    influx_token: Option<String>,
    /// The folder of keys
    #[arg(long, env = "MUSTER_KEYS")]
    keys: PathBuf,
    /// The address of the API
    #[arg(long, env = "MUSTER_LISTEN", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Role query: the URL of a command role, to which it sends on what it does not serve itself
    #[arg(long, env = "MUSTER_COMMAND_URL")]
    command_url: Option<String>,
    /// Role ingest: a device that was not heard for so many seconds is offline
    #[arg(long, env = "MUSTER_OFFLINE_AFTER", value_name = "SECONDS", default_value = "60",
        value_parser = clap::value_parser!(u64).range(5..))]
    offline_after: u64,
    /// Further names that the server's certificate is for
    #[arg(long, env = "MUSTER_NAMES", value_delimiter = ',')]
    name: Vec<String>,
}

impl From<ServeArgs> for ServeOptions {
    fn from(args: ServeArgs) -> Self {
        let device_servers = if args.device_nats_url.is_empty() {
            vec![args.nats_url.clone()]
        } else {
            args.device_nats_url
        };
        Self {
            roles: Roles(args.role),
            postgres_url: args.postgres_url,
            nats_url: args.nats_url,
            metric_store: MetricStore {
                url: args.influx_url,
                database: args.influx_database,
                user: args.influx_user.zip(args.influx_password),
                token: args.influx_token.map(|token| (args.influx_org, token)),
            },
            keys: args.keys,
            names: certificate_names(args.listen, args.name),
            listen: args.listen,
            device_servers,
            command_url: args.command_url,
            offline_after: Duration::from_secs(args.offline_after),
        }
    }
}

/// The names that a server at this address is known by.
pub(crate) fn certificate_names(listen: SocketAddr, more: Vec<String>) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    if let Ok(host) = nix::unistd::gethostname() {
        names.push(host.to_string_lossy().into_owned());
    }
    names.extend(more);
    names.sort();
    names.dedup();
    names.retain(|name| !name.is_empty());
    names
}
