//! `muster serve`: runs one role, or all roles, in this process, with existing backing servers.
//!
//! `muster up` runs the same code with servers that it has started.

mod append_report;
mod body;
mod broker;
mod connections;
mod cors;
mod forward;
mod health;
mod https_listener;
mod install;
mod limits;
mod metric_limits;
mod names;
mod options;
mod paths;
mod process;
mod prometheus;
mod proxies;
mod representation;
mod request_id;
mod startup;
mod tunnel;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use async_recursion::async_recursion as boxed;
use tokio_util::sync::CancellationToken;

pub(crate) use connections::ConnectionLimits;
pub(crate) use cors::CorsOrigins;
pub(crate) use limits::UnauthenticatedRate;
pub(crate) use metric_limits::MetricLimits;
pub(crate) use names::{address_for_others, certificate_names};
pub use options::{DEFAULT_PORT, Listen, ServeArgs, ServeOptions};
pub(crate) use options::{RecordShells, Role, Roles, TokenLimits, parse_offline_after};
use process::Process;
pub(crate) use proxies::TrustedProxies;

/// Runs the roles until Ctrl-C or SIGTERM.
///
/// # Errors
/// When a role cannot start or continue.
#[boxed]
pub async fn run_until_signal(options: ServeOptions) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Each client connection needs an open file, as do those to the database and the broker.
    if let Err(error) = muster_backing::file_limit::raise() {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        stopping.cancel();
    });
    run(options, stop, Box::new(|| tracing::info!("ready"))).await
}

/// Checks that this address is free to listen on, before anything is started for it.
pub(crate) fn check_free(listen: SocketAddr) -> Result<()> {
    std::net::TcpListener::bind(listen).map(drop).with_context(|| {
        format!(
            "failed to listen on {listen}; choose another port with --port, or stop what uses it"
        )
    })
}

/// Runs the roles until `stop`. Calls `ready` when the listener is open.
#[boxed]
pub(crate) async fn run(
    options: ServeOptions,
    stop: CancellationToken,
    ready: Box<dyn FnOnce() + Send>,
) -> Result<()> {
    let roles = options.roles;
    let mut process = Process::open(options, stop).await?;
    if roles.has(Role::Ingest) {
        process.start_ingest().await?;
    }
    if roles.has(Role::Command) {
        Box::pin(process.start_command()).await?;
    }
    if roles.has(Role::Query) {
        process.start_query().await?;
    }
    let parts = process.listen().await?;
    ready();
    parts.wait().await
}
