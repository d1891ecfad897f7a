//! `muster bootstrap`: the keys and the first admin token of a server that `muster serve` runs.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use muster_command::keys::KeyStore;
use serde_json::json;

use crate::client::Connection;
use crate::output::{self, line};

#[derive(Args, Debug)]
pub(crate) struct BootstrapArgs {
    /// PostgreSQL: postgres://user:password@host:port/database
    #[arg(long, env = "MUSTER_POSTGRES_URL", hide_env_values = true)]
    postgres_url: String,
    /// The folder of keys; made when it is not there
    #[arg(long, env = "MUSTER_KEYS")]
    keys: PathBuf,
    /// Names and addresses that the front door is reached by, beside localhost and this host's name
    #[arg(long, env = "MUSTER_NAMES", value_delimiter = ',')]
    name: Vec<String>,
}

/// Hands out the roles' keys, and prints the token in `<keys>/admin-token`; makes one when there is none that lets in.
pub(crate) async fn run(connection: &Connection, args: BootstrapArgs) -> Result<()> {
    let keys = KeyStore::open(&args.keys)?;
    let names = crate::serve::certificate_names((Ipv4Addr::UNSPECIFIED, 0).into(), args.name);
    keys.hand_out(&names, std::time::SystemTime::now().into())?;
    let file = args.keys.join("admin-token");
    let token = crate::up::admin_token(&args.postgres_url, &keys, &file).await?;
    if connection.json {
        return output::json(&json!({"token": token, "ca": keys.dir().join("ca.pem")}));
    }
    line(token);
    Ok(())
}
