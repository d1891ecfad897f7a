//! One program: started in its own process group, with input and captured outputs, and recorded.
//!
//! It needs no thread: pipes and the end of the child wake the agent's only thread.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::Duration;

use muster_schemas::events::{Exec, RefusalCause, RunReport};
use muster_schemas::wire::{PrivateInput, RunOrder};
use muster_schemas::{Event, OperationId, codec};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::entry::{Entry, ReadyRun};
use super::journal;
use super::options::OperationOptions;
use super::prepare;
use super::record::{self, Outcome, RunStarting, Runs, empty_report, truncate};
use super::spool::Spools;
use super::supervise::{Leader, Pipes, Supervision};
use crate::clock::Moment;
use crate::run_as::{RunAsError, run_as};
use crate::subprocess::{Launch, LaunchError, group, pid_of};

/// Maximum duration of a program whose start and end are recorded in a single commit.
pub(super) const MAX_MERGED_RUN_TIME: Duration = Duration::from_millis(20);

/// Reported for a run that ended before its program was started.
const NOT_STARTED: &str = "the program was not started yet: a file system may be unresponsive";

/// The reason why the start of a program could not be prepared.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    User(#[from] RunAsError),
    #[error("failed to write the standard input to the disk: {0}")]
    Input(#[source] io::Error),
    #[error("failed to create pipes: {0}")]
    Pipes(#[source] io::Error),
}

/// The parts of a program's start.
struct PreparedLaunch {
    launch: Launch,
    /// Standard input, output and error of the program.
    stdio: [OwnedFd; 3],
    /// The agent's ends of them.
    pipes: Pipes,
    /// Content of the standard input.
    stdin: Vec<u8>,
    /// Name of the user that the program runs as.
    user: String,
}

fn prepare_launch(
    spools: &Spools,
    id: OperationId,
    exec: &Exec,
    input: Option<PrivateInput>,
    run_tag: Uuid,
) -> Result<PreparedLaunch, PrepareError> {
    let (env, stdin) = input.map(|input| (input.env, input.stdin)).unwrap_or_default();
    let user = run_as(exec.user.as_deref())?;
    let launch = prepare::launch(exec, &user, env, id, run_tag);
    let (pipes, stdio) = if exec.background {
        let stdio = in_background(spools, id, &stdin).map_err(PrepareError::Input)?;
        (Pipes::default(), stdio)
    } else {
        Pipes::new().map_err(PrepareError::Pipes)?
    };
    Ok(PreparedLaunch { launch, stdio, pipes, stdin, user: user.name })
}

/// Runs a program and records its start and end.
pub(super) async fn run(
    runs: &Runs,
    options: &OperationOptions,
    id: OperationId,
    entry: Entry<ReadyRun>,
    order: &RunOrder,
    exec: &Exec,
    cancel: &CancellationToken,
) {
    let journaled = journal::read_input(&runs.store, id)
        .and_then(|input| Ok((input, runs.journal_start(id, entry)?)));
    let (input, mut entry) = match journaled {
        Ok(journaled) => journaled,
        Err(error) => {
            tracing::warn!(%error, operation = %id, "failed to start a run; retrying");
            return runs.queue.requeue(id);
        }
    };
    let input = input.and_then(|bytes| codec::decode::<PrivateInput>(&bytes).ok());
    let run_tag = entry.state.record.start.run_tag;
    let signals = signal(SignalKind::child());
    let limit = Duration::from_millis(order.timeout_ms).min(Duration::from_secs(u32::MAX.into()));
    let deadline = Instant::now() + limit;
    let prepared = match prepare_launch(&runs.spools, id, exec, input, run_tag) {
        Ok(prepared) => prepared,
        Err(error) => {
            let event = not_started(id, Outcome::Failed, &error.to_string());
            return runs.record_end(id, entry, event);
        }
    };
    let PreparedLaunch { launch, stdio, pipes, stdin, user } = prepared;
    let child = match start(runs, id, launch, stdio, deadline, cancel).await {
        Ok(child) => child,
        Err(end) => return runs.record_end(id, entry, end),
    };
    let process = child.id();
    let pid = pid_of(process);
    let mut leader = Leader { child: Some(child), pid, run_tag, is_armed: !exec.background };
    let started_at = now();
    entry.state.record.process = group::identify(process);
    let started = RunStarting::now(id, &entry.state, Some(user));
    let salts = entry.state.record.salts;
    let entry: Entry = entry.into();
    if exec.background {
        runs.record_started(id, &entry, &started);
        let report = RunReport { started_at, ended_at: now(), ..empty_report(id) };
        runs.record_end(id, entry, Outcome::Succeeded.event(report));
        leader.child = None;
        runs.queue.watch(process);
        return;
    }
    let spool = runs.spools.create(id, &salts);
    let supervision =
        Supervision { spools: &runs.spools, options, spool: &spool, deadline, cancel };
    let attended = supervision.run(&mut leader, pipes, stdin, signals.ok());
    tokio::pin!(attended);
    let (started, (outcome, report)) = match timeout(MAX_MERGED_RUN_TIME, &mut attended).await {
        Ok(over) => (Some(started), over),
        Err(_) => {
            runs.record_started(id, &entry, &started);
            (None, attended.await)
        }
    };
    let [stdout, stderr] = spool.summaries();
    let report = RunReport { started_at, ended_at: now(), stdout, stderr, ..report };
    runs.record_end_with_start(id, entry, started.as_ref(), outcome.event(report));
}

/// Starts the program. The error is the end of a run whose program was not started.
async fn start(
    runs: &Runs,
    id: OperationId,
    launch: Launch,
    stdio: [OwnedFd; 3],
    deadline: Instant,
    cancel: &CancellationToken,
) -> Result<Child, Event> {
    tokio::select! {
        launched = runs.launcher.launch(launch, stdio) => launched.map_err(|error| match error {
            LaunchError::Invalid(reason) => record::rejected(id, RefusalCause::Invalid, &reason),
            LaunchError::Failed(reason) => not_started(id, Outcome::Failed, &reason),
        }),
        () = sleep_until(deadline) => Err(not_started(id, Outcome::TimedOut, NOT_STARTED)),
        () = cancel.cancelled() => Err(not_started(id, Outcome::Canceled, NOT_STARTED)),
    }
}

fn now() -> Option<muster_schemas::Timestamp> {
    Some(Moment::now().wall)
}

/// Builds the end of a run whose program was not started.
fn not_started(id: OperationId, outcome: Outcome, problem: &str) -> Event {
    let problem = Some(truncate(problem));
    outcome.event(RunReport { problem, ended_at: now(), ..empty_report(id) })
}

/// Creates standard input, output and error of a program in the background.
fn in_background(spools: &Spools, id: OperationId, stdin: &[u8]) -> io::Result<[OwnedFd; 3]> {
    let null = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let stdin = if stdin.is_empty() { null()? } else { file_with(spools, id, stdin)? };
    Ok([stdin.into(), null()?.into(), null()?.into()])
}

/// Creates a file without a name, which only the program that gets it can read.
fn file_with(spools: &Spools, id: OperationId, bytes: &[u8]) -> io::Result<std::fs::File> {
    let path = spools.folder()?.join(format!("{id}.stdin"));
    muster_files::write_private(&path, bytes).map_err(io::Error::other)?;
    let file = std::fs::File::open(&path);
    std::fs::remove_file(&path)?;
    file
}
