//! `muster-agent run`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use muster_agent::{Agent, AgentOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::logs::SetLevel;

pub(super) async fn run(data: PathBuf, set_level: SetLevel) -> anyhow::Result<ExitCode> {
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
