//! `muster prepare`: creates the files that servers need before their first start, in a folder for
//! each server. It starts no process, connects to no server, and is idempotent.
//!
//! `docker-compose.yml` mounts each of these folders under the same path in its server.

use std::fs::{self, DirBuilder};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::Args;
use muster_backing::nats::{Identity, NatsOptions, Preload, Tls, configuration};
use muster_command::keys::{KeyStore, Listener};
use muster_eventlog::DatabaseRole;
use muster_files::write_private;
use muster_schemas::ProjectId;
use reqwest::Url;
use uuid::Uuid;

use crate::InvalidOption;
use crate::database_users;
use crate::serve::parse_offline_after;

/// Arguments of `muster prepare`.
#[derive(Args, Debug)]
pub struct PrepareArgs {
    /// Target folder, which gets one folder per server
    dir: PathBuf,
    /// PostgreSQL as the roles reach it, without a password: one is generated
    #[arg(
        long,
        env = "MUSTER_PREPARE_POSTGRES_URL",
        default_value = "postgres://muster@postgres:5432/muster?sslmode=require"
    )]
    postgres_url: Url,
    /// Listen address of nats-server
    #[arg(long, env = "MUSTER_PREPARE_NATS_LISTEN", default_value = "0.0.0.0:4222")]
    nats_listen: SocketAddr,
    /// Address of nats-server's monitoring endpoint
    #[arg(long, env = "MUSTER_PREPARE_NATS_MONITOR", default_value = "127.0.0.1:8222")]
    nats_monitor: SocketAddr,
    /// Timeout after which a device without messages is offline
    #[arg(long, env = "MUSTER_OFFLINE_AFTER", default_value = "60s", value_parser = parse_offline_after)]
    offline_after: Duration,
    /// Names and addresses of the servers, in addition to localhost
    #[arg(long, env = "MUSTER_NAMES", value_delimiter = ',')]
    name: Vec<String>,
}

/// Creates the missing files.
///
/// # Errors
/// When a file cannot be read or written.
pub fn run(args: &PrepareArgs) -> Result<()> {
    let dir = std::path::absolute(&args.dir)?;
    let at = |name: &str| dir.join(name);
    let folders =
        ["keys", "ingest", "query", "nats", "postgres", "influxdb", "grafana", "agent", "blobs"];
    // Grafana's script requires these two folders.
    for folder in folders.into_iter().chain(["grafana/data", "grafana/plugins"]) {
        create_dir(&at(folder))?;
    }
    let keys = KeyStore::open(&at("keys"))?;
    let names =
        crate::serve::certificate_names((Ipv4Addr::UNSPECIFIED, 0).into(), args.name.clone());
    keys.write_role_folders(&names, SystemTime::now().into())?;
    // Before two processes of the role command create it concurrently.
    keys.operation_key(&ProjectId::default_project())?;

    let url = postgres_url(&args.postgres_url, &read_or_create_secret(&at("postgres/password"))?)?;
    let token = read_or_create_secret(&at("keys/influx-token"))?;
    read_or_create_secret(&at("keys/influx-password"))?;
    read_or_create_secret(&at("grafana/admin-password"))?;
    for role in ["ingest", "query"] {
        copy_all(&at("keys/roles").join(role), &at(role))?;
        write(&at(role).join("influx-token"), &token)?;
    }
    // Only `muster bootstrap` uses the owner's URL, to create the users of the roles.
    write(&at("keys/postgres-url"), &with_ca(&url, &at("keys/ca.pem"))?)?;
    for (role, folder, file) in [
        (DatabaseRole::Ingest, "ingest", "postgres-url"),
        (DatabaseRole::Query, "query", "postgres-url"),
        (DatabaseRole::Command, "keys", "postgres-url-command"),
    ] {
        let url = database_users::url_of(&url, role, &keys)?;
        write(&at(folder).join(file), &with_ca(&url, &at(folder).join("ca.pem"))?)?;
    }
    for (server, listener) in [("nats", Listener::Broker), ("postgres", Listener::Postgres)] {
        let made = keys.certificates(listener, &names, SystemTime::now().into())?;
        copy(&made.chain, &at(server).join("server.pem"))?;
        copy(&made.key, &at(server).join("server.key"))?;
    }
    write(&at("nats/nats-server.conf"), &nats(args, &keys, &at("nats"))?)
}

/// Returns the configuration of nats-server.
fn nats(args: &PrepareArgs, keys: &KeyStore, dir: &Path) -> Result<String> {
    let identity = keys.broker_identity()?;
    let accounts = identity.accounts.into_iter();
    let preload = accounts.map(|(account, jwt)| Preload { account, jwt }).collect();
    let mut options = NatsOptions {
        listen: args.nats_listen.ip(),
        silence_timeout: args.offline_after,
        tls: Some(Tls {
            certificate: dir.join("server.pem"),
            key: dir.join("server.key"),
            client_ca: None,
        }),
        identity: Some(Identity {
            operator: identity.operator_jwt,
            system_account: identity.system_account,
            preload,
        }),
        ..NatsOptions::new(dir)
    };
    options.extra.insert("http".into(), args.nats_monitor.to_string().into());
    Ok(configuration(&options, args.nats_listen.port()))
}

fn postgres_url(url: &Url, password: &str) -> Result<String> {
    let mut url = url.clone();
    if url.username().is_empty() || url.set_password(Some(password)).is_err() {
        let message = format!("'{url}' names no user; write postgres://USER@HOST:PORT/DATABASE");
        return Err(InvalidOption(message).into());
    }
    Ok(url.to_string())
}

/// Adds the CA that verifies PostgreSQL's certificate to the URL: the role's own copy. A URL that
/// disables TLS, or names a CA, is not changed.
fn with_ca(url: &str, ca: &Path) -> Result<String> {
    let mut url: Url = url.parse().context("the URL of PostgreSQL")?;
    let mode = url.query_pairs().find(|(name, _)| name == "sslmode");
    let uses_tls = mode.is_some_and(|(_, mode)| mode != "disable");
    if uses_tls && !url.query_pairs().any(|(name, _)| name == "sslrootcert") {
        let ca = ca.to_str().context("the folder's path is not UTF-8")?.to_owned();
        url.query_pairs_mut().append_pair("sslrootcert", &ca);
    }
    Ok(url.to_string())
}

fn create_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("failed to create the folder {}", dir.display()))
}

/// Reads the secret in a file, which is generated once.
fn read_or_create_secret(path: &Path) -> Result<String> {
    if path.exists() {
        return read(path);
    }
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    write_private(path, secret.as_bytes())?;
    Ok(secret)
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    let entries =
        fs::read_dir(from).with_context(|| format!("failed to read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    write(to, &read(from)?)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// Writes a file unless its content is already correct.
fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    Ok(write_private(path, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn args(dir: &Path) -> PrepareArgs {
        PrepareArgs {
            dir: dir.to_owned(),
            postgres_url: "postgres://m@db:5432/d?sslmode=require".parse().unwrap(),
            nats_listen: "0.0.0.0:4222".parse().unwrap(),
            nats_monitor: "127.0.0.1:8222".parse().unwrap(),
            offline_after: Duration::from_secs(60),
            name: vec!["nats".into()],
        }
    }

    #[test]
    fn preparing_creates_all_files_and_is_idempotent() {
        let dir = tempfile::tempdir().unwrap();
        run(&args(dir.path())).unwrap();
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let url = text("query/postgres-url");
        let password = text("keys/postgres-muster_query.password");
        // Each role verifies the certificate with its own copy of the CA.
        let ca = |folder: &str| {
            let ca = dir.path().join(folder).join("ca.pem");
            assert!(ca.exists());
            ca.display().to_string().replace('/', "%2F")
        };
        let query = "sslmode=require&sslrootcert=";
        let expected =
            format!("postgres://muster_query:{password}@db:5432/d?{query}{}", ca("query"));
        assert_eq!(url, expected);
        let password = text("postgres/password");
        let owner = format!("postgres://m:{password}@db:5432/d?{query}{}", ca("keys"));
        assert_eq!(text("keys/postgres-url"), owner);
        for folder in ["ingest", "query"] {
            for file in std::fs::read_dir(dir.path().join(folder)).unwrap() {
                let bytes = std::fs::read(file.unwrap().path()).unwrap();
                assert!(!String::from_utf8_lossy(&bytes).contains(&password), "{folder}");
            }
        }
        assert_eq!(text("ingest/influx-token"), text("keys/influx-token"));
        let config: serde_json::Value =
            serde_json::from_str(&text("nats/nats-server.conf")).unwrap();
        assert_eq!(config["listen"], "0.0.0.0:4222");
        assert_eq!(config["http"], "127.0.0.1:8222");
        let key = dir.path().join("nats/server.key");
        assert_eq!(config["tls"]["key_file"], key.to_str().unwrap());
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join("query/nats-operator.seed").exists());
        let before = [url, text("nats/nats-server.conf"), text("grafana/admin-password")];
        run(&args(dir.path())).unwrap();
        let after = ["query/postgres-url", "nats/nats-server.conf", "grafana/admin-password"];
        assert_eq!(before, after.map(text));
    }

    #[test]
    fn a_url_without_a_user_is_reported() {
        let url = "postgres://db/d".parse().unwrap();
        assert!(postgres_url(&url, "x").is_err());
    }
}
