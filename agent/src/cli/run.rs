//! `muster-agent run`.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use muster_agent::enroll::CA_FILE;
use muster_agent::log_level::SetLevel;
use muster_agent::operations::OperationOptions;
use muster_agent::{Agent, AgentOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code that requests a restart from a supervisor (EX_TEMPFAIL).
const RESTART_EXIT_CODE: u8 = 75;

/// Re-executes the process with the pinned CA as the only CA of the system.
///
/// async-nats reads all of the system's CAs at each connection, and then discards them for the
/// agent's own verifier: this wastes half a megabyte, and a single unreadable file among them would
/// prevent the device from connecting. An environment variable selects the file; a process cannot
/// safely change its own environment.
fn restart_with_pinned_ca(data: &Path) {
    let ca = data.join(CA_FILE);
    if !ca.is_file() || std::env::var_os("SSL_CERT_FILE").is_some_and(|file| file == ca) {
        return;
    }
    let error = reexec(|command| {
        command.env("SSL_CERT_FILE", &ca).env_remove("SSL_CERT_DIR");
    });
    // The agent works without it, too.
    tracing::debug!(%error, "failed to restart the process");
}

/// Replaces this process with a new one that has the same id and arguments. Returns only on
/// failure.
fn reexec(change: impl FnOnce(&mut Command)) -> io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    // The kernel appends this suffix when the file was replaced: execute the new file.
    let name = program.to_string_lossy();
    let program = name.strip_suffix(" (deleted)").map_or(program.clone(), PathBuf::from);
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    change(&mut command);
    command.exec()
}

pub(super) async fn run(
    data: PathBuf,
    url: Option<url::Url>,
    policy: PathBuf,
    set_level: SetLevel,
) -> anyhow::Result<ExitCode> {
    restart_with_pinned_ca(&data);
    let operations = OperationOptions { policy, ..OperationOptions::default() };
    let agent =
        Agent::open(AgentOptions { url, set_level, operations, ..AgentOptions::new(data) })?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let stop = CancellationToken::new();
    let running = agent.clone().run(stop.clone());
    tokio::pin!(running);
    tokio::select! {
        outcome = &mut running => outcome?,
        _ = terminate.recv() => {
            stop.cancel();
            running.await?;
        }
        _ = interrupt.recv() => {
            stop.cancel();
            running.await?;
        }
    }
    if agent.is_restart_requested() && !stop.is_cancelled() {
        // Executing in place works under any supervisor, and without one.
        let error = reexec(|_| {});
        tracing::error!(%error, "failed to restart the agent; its supervisor must restart it");
        return Ok(ExitCode::from(RESTART_EXIT_CODE));
    }
    Ok(ExitCode::SUCCESS)
}
