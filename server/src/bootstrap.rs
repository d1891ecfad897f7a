//! `muster bootstrap`: creates the keys and the first admin token of a server that `muster serve`
//! runs, and sets up a new InfluxDB 2.x.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use async_recursion::async_recursion as boxed;
use clap::Args;
use muster_command::keys::KeyStore;
use muster_metric_store::InfluxClient;

use crate::database_users;
use crate::log_setup::{admin_token, open_as_owner};
use crate::metric_store::InfluxArgs;

/// Arguments of `muster bootstrap`.
#[derive(Args, Debug)]
#[group(skip)]
pub struct BootstrapArgs {
    /// PostgreSQL: postgres://user@host:port/database; with a password, use the variable
    #[arg(long, env = "MUSTER_POSTGRES_URL", hide_env_values = true)]
    postgres_url: String,
    /// Key folder; created if missing
    #[arg(long, env = "MUSTER_KEYS")]
    keys: PathBuf,
    /// Names and addresses of the listener besides localhost and the host name
    #[arg(long, env = "MUSTER_NAMES", value_delimiter = ',')]
    name: Vec<String>,
    /// InfluxDB: http://host:port; its database or bucket is created if missing
    #[arg(long, env = "MUSTER_INFLUX_URL")]
    influx_url: Option<String>,
    #[command(flatten)]
    influx: InfluxArgs,
    /// Set up a new InfluxDB 2.x, with this password for its user muster
    ///
    /// MUSTER_INFLUX_TOKEN becomes a token with full access.
    #[arg(long, env = "MUSTER_INFLUX_SETUP_PASSWORD", hide_env_values = true, requires_all = ["influx_url", "influx_token"])]
    influx_setup_password: Option<String>,
    /// Also accept events without a proof of authority
    ///
    /// For a server whose backup from a release without such proofs was restored. Events that an
    /// intruder inserted are accepted, too.
    #[arg(long)]
    adopt_events: bool,
}

/// What was created, or existed.
#[derive(Debug)]
pub struct Bootstrapped {
    /// The admin token.
    pub token: String,
    /// PEM file of the CA certificate.
    pub ca: PathBuf,
    /// Whether each role has a database user; the owner may not be allowed to create them.
    pub has_database_users: bool,
}

/// Distributes the roles' keys, and returns the token in `<keys>/admin-token`; creates a token if
/// there is no valid one.
///
/// # Errors
/// When the key folder, the database or the metric store cannot be used.
#[boxed]
pub async fn run(args: BootstrapArgs) -> Result<Bootstrapped> {
    let keys = KeyStore::open(&args.keys)?;
    let names =
        crate::serve::certificate_names((Ipv4Addr::UNSPECIFIED, 0).into(), args.name.clone());
    keys.write_role_folders(&names, std::time::SystemTime::now().into())?;
    let file = args.keys.join("admin-token");
    prepare_store(&args).await?;
    let log = open_as_owner(&args.postgres_url, &keys).await?;
    let token = admin_token(&log, &keys, &file, args.adopt_events).await?;
    let has_database_users = database_users::create(&log, &args.postgres_url, &keys).await?;
    Ok(Bootstrapped { token, ca: keys.dir().join("ca.pem"), has_database_users })
}

/// Creates the database or bucket of the metric store, if a store is configured.
async fn prepare_store(args: &BootstrapArgs) -> Result<()> {
    let Some(url) = args.influx_url.clone() else { return Ok(()) };
    let client = InfluxClient::new(args.influx.clone().settings(&url))?;
    if let Some(password) = &args.influx_setup_password {
        client
            .set_up(password)
            .await
            .map_err(|error| anyhow!("failed to set up InfluxDB at {url}: {}", error.reason()))?;
    }
    client.create_database().await.map_err(|error| {
        let database = &client.settings().database;
        anyhow!("failed to create '{database}' in InfluxDB at {url}: {}", error.reason())
    })
}
