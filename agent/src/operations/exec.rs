//! One program: started in its own process group, with input and captured outputs, until its end.
//!
//! It needs no thread: pipes and the end of the child wake the agent's only thread.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::Duration;

use muster_schemas::events::{Exec, RefusalCause, RunReport};
use muster_schemas::wire::{OutputStream, PrivateInput, RunOrder};
use muster_schemas::{Event, OperationId, codec};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wait4::Wait4;

use super::entry::{Entry, ReadyRun};
use super::journal;
use super::options::OperationOptions;
use super::prepare;
use super::record::{self, Outcome, RunStarting, Runs, empty_report, truncate};
use super::spool::{ReadPace, Spool, Spools};
use crate::clock::Moment;
use crate::run_as::{RunAsError, run_as};
use crate::subprocess::{Launch, LaunchError, group, has_ended, pid_of, reap_later, wait_for_end};

/// Maximum number of bytes of one read from an output.
const MAX_READ_BYTES: usize = 32 * 1024;
/// Delay between reads while a program's output is dropped, so that reading it does not starve the
/// rest of the agent.
const DROPPED_READ_DELAY: Duration = Duration::from_millis(1);
/// Timeout for reading the rest of the outputs after all processes were ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum duration of a program whose start and end are recorded in a single commit.
pub(super) const MAX_MERGED_RUN_TIME: Duration = Duration::from_millis(20);

/// Reported for a run that ended before its program was started.
const NOT_STARTED: &str = "the program was not started yet: a file system may be unresponsive";

/// A started program. When it is dropped, all its processes are killed.
struct Leader {
    child: Option<Child>,
    pid: Pid,
    run_tag: Uuid,
    is_armed: bool,
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.is_armed {
            group::kill_run(self.run_tag, self.pid);
        }
        // An unresponsive file system may block it for a long time.
        if let Some(child) = self.child.take() {
            reap_later(child);
        }
    }
}

/// The agent's ends of a program's standard input, output and error.
#[derive(Default)]
struct Pipes {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Pipes {
    /// Creates the pipes; also returns the program's ends.
    fn new() -> io::Result<(Self, [OwnedFd; 3])> {
        let (stdin, out, err) = (io::pipe()?, io::pipe()?, io::pipe()?);
        let ours = Self {
            stdin: Some(stdin.1.into()),
            stdout: Some(out.0.into()),
            stderr: Some(err.0.into()),
        };
        Ok((ours, [stdin.0.into(), out.1.into(), err.1.into()]))
    }
}

/// The reason why a run has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EndCause {
    Exited,
    TimedOut,
    Canceled,
}

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
    let input = match journal::read_input(&runs.store, id) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(%error, operation = %id, "failed to start a run; retrying");
            return runs.queue.requeue(id);
        }
    };
    let mut entry = match runs.journal_start(id, entry) {
        Ok(entry) => entry,
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
    let launched = tokio::select! {
        launched = runs.launcher.launch(launch, stdio) => launched.map_err(|error| match error {
            LaunchError::Invalid(reason) => record::rejected(id, RefusalCause::Invalid, &reason),
            LaunchError::Failed(reason) => not_started(id, Outcome::Failed, &reason),
        }),
        () = sleep_until(deadline) => Err(not_started(id, Outcome::TimedOut, NOT_STARTED)),
        () = cancel.cancelled() => Err(not_started(id, Outcome::Canceled, NOT_STARTED)),
    };
    let child = match launched {
        Ok(child) => child,
        Err(event) => return runs.record_end(id, entry, event),
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
    let attended = supervise(
        &runs.spools,
        options,
        &spool,
        &mut leader,
        pipes,
        stdin,
        deadline,
        cancel,
        signals.ok(),
    );
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
    crate::store::write_private(&path, bytes).map_err(io::Error::other)?;
    let file = std::fs::File::open(&path);
    std::fs::remove_file(&path)?;
    file
}

/// Writes a program's input and reads its outputs until all of its processes have ended.
#[expect(clippy::too_many_arguments, reason = "one caller, and each is another thing")]
async fn supervise(
    spools: &Spools,
    options: &OperationOptions,
    spool: &Spool,
    leader: &mut Leader,
    pipes: Pipes,
    stdin: Vec<u8>,
    deadline: Instant,
    cancel: &CancellationToken,
    mut signals: Option<Signal>,
) -> (Outcome, RunReport) {
    let (operation, pid) = (spool.operation, leader.pid);
    let feed = write_input(pipes.stdin, stdin);
    let listen = async {
        tokio::join!(
            store_output(spools, spool, OutputStream::Stdout, pipes.stdout),
            store_output(spools, spool, OutputStream::Stderr, pipes.stderr),
        )
    };
    tokio::pin!(feed, listen);
    let (mut is_fed, mut is_drained) = (false, false);
    let why = loop {
        tokio::select! {
            () = wait_for_end(pid, &mut signals) => break EndCause::Exited,
            () = sleep_until(deadline) => break EndCause::TimedOut,
            () = cancel.cancelled() => break EndCause::Canceled,
            () = &mut feed, if !is_fed => is_fed = true,
            _ = &mut listen, if !is_drained => is_drained = true,
        }
    };
    let mut problem = None;
    if why == EndCause::Exited {
        if !is_drained {
            is_drained = timeout(options.grace, &mut listen).await.is_ok();
        }
        // Its output may still wait for a slow reader: then the outputs are not held open by a
        // child. The search for children reads all of /proc.
        let is_alone = !is_drained && !group::has_members(leader.run_tag, Some(pid));
        while !is_drained && is_alone {
            tokio::select! {
                _ = &mut listen => is_drained = true,
                () = sleep(options.grace) => if !spool.is_blocked() { break },
                () = sleep_until(deadline) => break,
                () = cancel.cancelled() => break,
            }
        }
        if !is_drained && is_alone {
            spool.end_live();
            is_drained = timeout(options.grace, &mut listen).await.is_ok();
        }
        if !is_drained {
            problem =
                Some("leftover processes kept the outputs open and were terminated".to_owned());
        }
    }
    if why != EndCause::Exited || !is_drained {
        spool.end_live();
        let with_strays = why != EndCause::Exited;
        let end = group::end(leader.run_tag, Some(pid), with_strays, options.kill_after);
        tokio::pin!(end);
        let has_ended = loop {
            tokio::select! {
                has_ended = &mut end => break has_ended,
                _ = &mut listen, if !is_drained => is_drained = true,
            }
        };
        if !has_ended {
            problem = Some("failed to terminate all processes of the run".to_owned());
        }
        if !is_drained {
            let _ = timeout(DRAIN_TIMEOUT, &mut listen).await;
        }
    }
    leader.is_armed = false;
    let report = RunReport { problem, ..empty_report(operation) };
    if !has_ended(pid) {
        // Stuck in the kernel, for example because of a failed disk.
        return (outcome(why, false), report);
    }
    let Some(mut child) = leader.child.take() else { return (outcome(why, false), report) };
    match child.wait4() {
        Ok(used) => {
            let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            let report = RunReport {
                exit_code: used.status.code(),
                signal: used.status.signal(),
                user_us: micros(used.rusage.utime),
                system_us: micros(used.rusage.stime),
                peak_memory: used.rusage.maxrss,
                ..report
            };
            (outcome(why, used.status.success()), report)
        }
        Err(error) => {
            let problem = format!("the exit status is unknown: {error}");
            (outcome(why, false), RunReport { problem: Some(problem), ..report })
        }
    }
}

const fn outcome(cause: EndCause, is_success: bool) -> Outcome {
    match cause {
        EndCause::Exited if is_success => Outcome::Succeeded,
        EndCause::Exited => Outcome::Failed,
        EndCause::TimedOut => Outcome::TimedOut,
        EndCause::Canceled => Outcome::Canceled,
    }
}

/// Writes a program's input and closes it; it is not an error if the program does not read it.
async fn write_input(pipe: Option<OwnedFd>, bytes: Vec<u8>) {
    let Some(mut pipe) = pipe.and_then(|fd| pipe::Sender::from_owned_fd(fd).ok()) else { return };
    let _ = pipe.write_all(&bytes).await;
}

/// Stores the data from a pipe until its end.
async fn store_output(spools: &Spools, spool: &Spool, stream: OutputStream, pipe: Option<OwnedFd>) {
    let Some(pipe) = pipe.and_then(|fd| pipe::Receiver::from_owned_fd(fd).ok()) else { return };
    while pipe.readable().await.is_ok() {
        // Allocated only while there is data: a silent program needs no memory.
        let mut buffer = vec![0; MAX_READ_BYTES];
        match pipe.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let pace = spools.write(spool, stream, &buffer[..count]);
                drop(buffer);
                match pace {
                    ReadPace::Wait => spool.wait_for_room(stream).await,
                    ReadPace::Delay if count == MAX_READ_BYTES => sleep(DROPPED_READ_DELAY).await,
                    ReadPace::Delay | ReadPace::Continue => tokio::task::yield_now().await,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
