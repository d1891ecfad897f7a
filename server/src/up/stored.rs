//! The servers of a running `muster up`, from the files in its folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use muster_metric_store::{ADMINISTRATOR, StoreSettings};
use serde::Deserialize;

use super::folder::Ports;
use crate::metric_store::credentials;

/// The part of `ready.json` that is used here.
#[derive(Debug, Deserialize)]
struct Ready {
    url: String,
}

/// Returns PostgreSQL's URL and the metric store of the `muster up` in this folder.
pub fn servers_in(dir: &Path) -> Result<(String, StoreSettings)> {
    let path = dir.join("ports.json");
    let ports: Ports = fs::read(&path)
        .map_err(anyhow::Error::new)
        .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
        .with_context(|| {
            format!(
                "failed to read {}; give the folder of `muster up` with --data DIR, or \
                 --postgres-url",
                path.display()
            )
        })?;
    let (Some(postgres), Some(influx)) = (ports.postgres, ports.influx) else {
        anyhow::bail!("{} contains no servers: start `muster up` once", path.display());
    };
    let password = secret(&dir.join("postgres/password"))?;
    // InfluxDB 2.x has a token in addition to its password, 1.x does not.
    let token = secret(&dir.join("influx/token")).ok();
    let user = match &token {
        Some(_) => None,
        None => Some((ADMINISTRATOR.to_owned(), secret(&dir.join("influx/password"))?)),
    };
    let token = token.map(|token| (Some("muster".to_owned()), token));
    let store = StoreSettings {
        credentials: credentials(token, user),
        ..StoreSettings::new(&format!("http://127.0.0.1:{influx}"), "muster")
    };
    Ok((format!("postgres://muster:{password}@127.0.0.1:{postgres}/muster"), store))
}

/// Returns the ports of its broker and its API.
pub fn ports_in(dir: &Path) -> Option<(u16, Option<String>)> {
    let ports: Ports = serde_json::from_slice(&fs::read(dir.join("ports.json")).ok()?).ok()?;
    let ready: Option<Ready> = serde_json::from_slice(&fs::read(dir.join("ready.json")).ok()?).ok();
    let api = ready.and_then(|ready| ready.url.parse::<reqwest::Url>().ok());
    let address =
        |url: reqwest::Url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?));
    Some((ports.nats?, api.and_then(address)))
}

fn secret(path: &Path) -> Result<String> {
    let text =
        fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    Ok(text.trim().to_owned())
}
