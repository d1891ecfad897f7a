//! `muster health`: checks whether a role is ready, for health checks without curl.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use muster_api_types::problems::ProblemDocument;
use muster_api_types::server::Health;
use muster_client::RequestError;
use muster_schemas::errors::error_chain;
use muster_server::serve::{DEFAULT_PORT, Listen};

use crate::output::line;

#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    /// Listen address of the role; for all addresses, the check uses loopback
    #[arg(long, env = "MUSTER_LISTEN", value_name = "ADDRESS[:PORT]")]
    listen: Option<Listen>,
    /// Key folder of the role, which contains ca.pem
    #[arg(long, env = "MUSTER_KEYS")]
    keys: PathBuf,
}

/// Prints ok, or what a role that serves reads cannot write; fails with the reason when the role is
/// not ready.
pub(crate) async fn run(args: HealthArgs) -> Result<()> {
    let listen =
        args.listen.map_or(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)), |listen| {
            listen.with_port(DEFAULT_PORT)
        });
    match query_readiness(&reachable_address(listen), &args.keys).await? {
        None => line("ok"),
        Some(degraded) => line(format!("degraded: {degraded}")),
    }
    Ok(())
}

/// Returns host and port by which this machine reaches a listener: loopback of the same address
/// family for a listener on all addresses. The certificate contains both names.
pub(super) fn reachable_address(listen: SocketAddr) -> String {
    SocketAddr::new(muster_backing::ports::reachable(listen.ip()), listen.port()).to_string()
}

/// Checks whether a role on this machine is ready. Returns what a ready role cannot write.
pub(super) async fn query_readiness(address: &str, keys: &Path) -> Result<Option<String>> {
    let url = format!("https://{address}/readyz");
    let ca = keys.join("ca.pem");
    let pem = std::fs::read(&ca).with_context(|| format!("failed to read {}", ca.display()))?;
    let http = reqwest::Client::builder()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?)
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()?;
    let response = http.get(&url).send().await.map_err(|error| RequestError::Unreachable {
        url: url.clone(),
        problem: error_chain(&error),
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response.json::<Health>().await.ok().and_then(|health| health.degraded));
    }
    let problem = response.json::<ProblemDocument>().await;
    let detail = problem.map_or_else(|_| status.to_string(), |problem| problem.detail);
    Err(RequestError::Problem { status: status.as_u16(), kind: String::new(), detail }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_queried_by_its_own_address_family() {
        for (listen, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("[::1]:1", "[::1]:1"),
            ("192.0.2.7:1", "192.0.2.7:1"),
        ] {
            assert_eq!(reachable_address(listen.parse().unwrap()), expected);
        }
    }
}
