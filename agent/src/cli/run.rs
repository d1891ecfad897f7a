//! `muster-agent run`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use muster_agent::enroll::CA_FILE;
use muster_agent::{Agent, AgentOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::logs::SetLevel;

/// Starts over with the pinned CA as the system's only one.
///
/// async-nats reads all of the system's CAs at each connection, only to throw them away for our
/// own verifier: 1 MB for nothing, and one unreadable file among them would lock the device out.
/// The environment says which file to read; a process cannot safely change its own.
fn start_over(data: &Path) {
    let ca = data.join(CA_FILE);
    if !ca.is_file() || std::env::var_os("SSL_CERT_FILE").is_some_and(|file| file == ca) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let error = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env("SSL_CERT_FILE", &ca)
        .env_remove("SSL_CERT_DIR")
        .exec();
    // It works all the same.
    tracing::debug!(%error, "the process could not start over");
}

pub(super) async fn run(data: PathBuf, set_level: SetLevel) -> anyhow::Result<ExitCode> {
    start_over(&data);
    let agent = Agent::open(AgentOptions { set_level, ..AgentOptions::new(data) })?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let asked = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.cancel();
    };
    let (outcome, ()) = tokio::join!(agent.run(stop), asked);
    outcome?;
    Ok(ExitCode::SUCCESS)
}
