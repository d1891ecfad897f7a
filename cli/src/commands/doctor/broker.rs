//! Checks of the broker: whether it is reachable, accepts the role, and has space in its streams.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use muster_command::keys::{KeyStore, RoleKeys};
use muster_schemas::errors::error_chain;
use muster_schemas::subjects::{EVENTS_STREAM, METRICS_STREAM};
use tokio::time::timeout;

use super::check::Check;

const NAME: &str = "broker";
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum fill level of a stream, in percent; a fuller one will soon refuse devices' messages.
const MAX_FILL_PERCENT: u64 = 80;

/// Connects as a role does, and checks the streams.
pub(super) async fn examine(url: &str, keys: &Path) -> Vec<Check> {
    let client = match timeout(CHECK_TIMEOUT, connect(url, keys)).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return vec![unreachable(url, &format!("{error:#}"))],
        Err(_) => return vec![unreachable(url, "it does not respond within 10 s")],
    };
    let version = client.server_info().version;
    let mut checks = vec![Check::good(NAME, format!("{url}, nats-server {version}"))];
    let context = async_nats::jetstream::new(client);
    for (name, stream) in [("events", EVENTS_STREAM), ("metrics", METRICS_STREAM)] {
        checks.push(match timeout(CHECK_TIMEOUT, context.get_stream(stream)).await {
            Ok(Ok(stream)) => {
                let info = stream.cached_info();
                stream_capacity(name, info.state.messages, info.state.bytes, info.config.max_bytes)
            }
            Ok(Err(error)) => {
                let remedy =
                    "a role ingest creates the stream when it starts: start one, or see its log";
                Check::bad(name, format!("the stream {stream}: {error}"), remedy)
            }
            Err(_) => {
                let remedy =
                    "see the log of nats-server: JetStream may be recovering, or its disk may be \
                     full";
                Check::bad(name, format!("the stream {stream}: no response within 10 s"), remedy)
            }
        });
    }
    checks
}

pub(super) fn stream_capacity(
    name: &'static str,
    messages: u64,
    bytes: u64,
    max_bytes: i64,
) -> Check {
    let found = format!("{messages} messages, {} MiB in the broker", bytes >> 20);
    let most = u64::try_from(max_bytes).unwrap_or_default();
    if most > 0 && bytes.saturating_mul(100) > most.saturating_mul(MAX_FILL_PERCENT) {
        let remedy = "a role ingest is missing, or its store (PostgreSQL, InfluxDB) is unavailable \
             or slow; when the stream is full, devices keep their data";
        return Check::bad(name, format!("{found}, of {} MiB", most >> 20), remedy);
    }
    Check::good(name, found)
}

fn unreachable(url: &str, problem: &str) -> Check {
    let remedy = "check that nats-server is started, that its port is reachable from here, and \
         that it has the operator of these keys; devices retry indefinitely and keep their events";
    Check::bad(NAME, format!("{url}: {problem}"), remedy)
}

async fn connect(url: &str, keys: &Path) -> Result<async_nats::Client> {
    // Command's key folder has no credentials of ingest; if there is no folder of ingest, they are
    // created from the keys.
    let role = RoleKeys::open(keys, "ingest").or_else(|error| {
        if keys.join("nats-role-ingest.seed").exists() {
            KeyStore::open(keys)?.role_keys("ingest")
        } else {
            Err(error)
        }
    })?;
    let mut failure = String::new();
    let connected = async_nats::ConnectOptions::with_credentials(&role.broker.0)
        .context("the role's credentials for the broker are not usable")?
        .name("muster doctor")
        .add_root_certificates(role.ca)
        .require_tls(url.starts_with("tls"))
        .connection_timeout(Duration::from_secs(5))
        .connect(url)
        .await;
    connected.map_err(|error| {
        failure = error_chain(&error);
        anyhow::anyhow!("{failure}")
    })
}
