//! A started program: its input is written and its outputs are read until all of its processes have
//! ended.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::Child;
use std::time::Duration;

use muster_schemas::OperationId;
use muster_schemas::events::RunReport;
use muster_schemas::wire::OutputStream;
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::Signal;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wait4::Wait4;

use super::options::OperationOptions;
use super::record::{Outcome, empty_report};
use super::spool::{ReadPace, Spool, Spools};
use crate::subprocess::{group, has_ended, reap_later, wait_for_end};

/// Maximum number of bytes of one read from an output.
const MAX_READ_BYTES: usize = 32 * 1024;
/// Delay between reads while a program's output is dropped, so that reading it does not starve the
/// rest of the agent.
const DROPPED_READ_DELAY: Duration = Duration::from_millis(1);
/// Timeout for reading the rest of the outputs after all processes were ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A started program. When it is dropped, all its processes are killed.
pub(super) struct Leader {
    pub(super) child: Option<Child>,
    pub(super) pid: Pid,
    pub(super) run_tag: Uuid,
    pub(super) is_armed: bool,
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

impl Leader {
    /// Reaps the program, and returns the run's end.
    fn reap(
        &mut self,
        operation: OperationId,
        cause: EndCause,
        problem: Option<String>,
    ) -> (Outcome, RunReport) {
        let report = RunReport { problem, ..empty_report(operation) };
        if !has_ended(self.pid) {
            // Stuck in the kernel, for example because of a failed disk.
            return (outcome(cause, false), report);
        }
        let Some(mut child) = self.child.take() else { return (outcome(cause, false), report) };
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
                (outcome(cause, used.status.success()), report)
            }
            Err(error) => {
                let problem = format!("the exit status is unknown: {error}");
                (outcome(cause, false), RunReport { problem: Some(problem), ..report })
            }
        }
    }
}

/// The agent's ends of a program's standard input, output and error.
#[derive(Default)]
pub(super) struct Pipes {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Pipes {
    /// Creates the pipes; also returns the program's ends.
    pub(super) fn new() -> io::Result<(Self, [OwnedFd; 3])> {
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

const fn outcome(cause: EndCause, is_success: bool) -> Outcome {
    match cause {
        EndCause::Exited if is_success => Outcome::Succeeded,
        EndCause::Exited => Outcome::Failed,
        EndCause::TimedOut => Outcome::TimedOut,
        EndCause::Canceled => Outcome::Canceled,
    }
}

/// The future that stores a program's outputs.
struct Outputs<'a, F> {
    reading: Pin<&'a mut F>,
    /// Whether both outputs were read to their end.
    is_drained: bool,
}

impl<F: Future> Outputs<'_, F> {
    /// Reads both outputs to their end.
    async fn drain(&mut self) {
        if !self.is_drained {
            self.reading.as_mut().await;
            self.is_drained = true;
        }
    }

    /// Reads the outputs for a limited time.
    async fn drain_for(&mut self, limit: Duration) {
        let _ = timeout(limit, self.drain()).await;
    }
}

/// The supervision of a program.
pub(super) struct Supervision<'a> {
    pub(super) spools: &'a Spools,
    pub(super) options: &'a OperationOptions,
    /// The run's outputs.
    pub(super) spool: &'a Spool,
    pub(super) deadline: Instant,
    pub(super) cancel: &'a CancellationToken,
}

impl Supervision<'_> {
    /// Writes a program's input and reads its outputs until all of its processes have ended.
    pub(super) async fn run(
        &self,
        leader: &mut Leader,
        pipes: Pipes,
        stdin: Vec<u8>,
        mut signals: Option<Signal>,
    ) -> (Outcome, RunReport) {
        let feed = write_input(pipes.stdin, stdin);
        let listen = async {
            tokio::join!(
                store_output(self.spools, self.spool, OutputStream::Stdout, pipes.stdout),
                store_output(self.spools, self.spool, OutputStream::Stderr, pipes.stderr),
            )
        };
        tokio::pin!(feed, listen);
        let mut outputs = Outputs { reading: listen, is_drained: false };
        let mut is_fed = false;
        let cause = loop {
            tokio::select! {
                () = wait_for_end(leader.pid, &mut signals) => break EndCause::Exited,
                () = sleep_until(self.deadline) => break EndCause::TimedOut,
                () = self.cancel.cancelled() => break EndCause::Canceled,
                () = &mut feed, if !is_fed => is_fed = true,
                () = outputs.drain(), if !outputs.is_drained => {}
            }
        };
        let mut problem = None;
        if cause == EndCause::Exited {
            self.read_rest(leader, &mut outputs).await;
            if !outputs.is_drained {
                problem = Some("leftover processes kept the outputs open and were terminated");
            }
        }
        if cause != EndCause::Exited || !outputs.is_drained {
            let have_ended = self.end_processes(leader, cause, &mut outputs).await;
            if !have_ended {
                problem = Some("failed to terminate all processes of the run");
            }
        }
        leader.is_armed = false;
        leader.reap(self.spool.operation, cause, problem.map(str::to_owned))
    }

    /// Reads the rest of the outputs of a program that has exited; stops if other processes of the
    /// run keep them open.
    async fn read_rest<F: Future>(&self, leader: &Leader, outputs: &mut Outputs<'_, F>) {
        outputs.drain_for(self.options.grace).await;
        // Its output may still wait for a slow reader: then the outputs are not held open by a
        // child. The search for children reads all of /proc.
        if outputs.is_drained || group::has_members(leader.run_tag, Some(leader.pid)) {
            return;
        }
        while !outputs.is_drained {
            tokio::select! {
                () = outputs.drain() => {}
                () = sleep(self.options.grace) => if !self.spool.is_blocked() { break },
                () = sleep_until(self.deadline) => break,
                () = self.cancel.cancelled() => break,
            }
        }
        if !outputs.is_drained {
            self.spool.end_live();
            outputs.drain_for(self.options.grace).await;
        }
    }

    /// Ends all processes of the run, and reads the rest of the outputs for a limited time. Returns
    /// whether all processes have ended.
    async fn end_processes<F: Future>(
        &self,
        leader: &Leader,
        cause: EndCause,
        outputs: &mut Outputs<'_, F>,
    ) -> bool {
        self.spool.end_live();
        let with_strays = cause != EndCause::Exited;
        let kill_after = self.options.kill_after;
        let end = group::end(leader.run_tag, Some(leader.pid), with_strays, kill_after);
        tokio::pin!(end);
        let have_ended = loop {
            tokio::select! {
                have_ended = &mut end => break have_ended,
                () = outputs.drain(), if !outputs.is_drained => {}
            }
        };
        outputs.drain_for(DRAIN_TIMEOUT).await;
        have_ended
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use serde_bytes::ByteArray;
    use tokio::signal::unix::{SignalKind, signal};

    use super::super::entry::Salts;
    use super::*;
    use crate::subprocess::{RUN_TAG_VARIABLE, pid_of};

    /// Runs a line with this input under supervision; returns the end and the outputs' lengths.
    async fn supervise(
        line: &str,
        stdin: &[u8],
        limit: Duration,
        cancel: &CancellationToken,
    ) -> (Outcome, RunReport, [u64; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let spools = Spools::new(dir.path(), 1 << 20);
        let salts = Salts { stdout: ByteArray::new([1; 16]), stderr: ByteArray::new([2; 16]) };
        let spool = spools.create(OperationId(Uuid::from_u128(1)), &salts);
        let signals = signal(SignalKind::child()).ok();
        let (pipes, [input, output, errors]) = Pipes::new().unwrap();
        let run_tag = Uuid::new_v4();
        let child = Command::new("/bin/sh")
            .args(["-c", line])
            .env(RUN_TAG_VARIABLE, run_tag.to_string())
            .stdin(input)
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = pid_of(child.id());
        let mut leader = Leader { child: Some(child), pid, run_tag, is_armed: true };
        let options = OperationOptions {
            kill_after: Duration::from_secs(1),
            grace: Duration::from_millis(200),
            ..OperationOptions::default()
        };
        let deadline = Instant::now() + limit;
        let (spools, options, spool) = (&spools, &options, &*spool);
        let supervision = Supervision { spools, options, spool, deadline, cancel };
        let (outcome, report) = supervision.run(&mut leader, pipes, stdin.to_vec(), signals).await;
        assert!(!leader.is_armed);
        assert!(!group::has_members(run_tag, None), "all processes have ended");
        (outcome, report, spool.summaries().map(|summary| summary.bytes))
    }

    #[tokio::test]
    async fn the_input_is_written_and_the_outputs_are_stored() {
        let (long, cancel) = (Duration::from_secs(60), CancellationToken::new());
        let (outcome, report, bytes) = supervise("cat; echo no >&2", b"yes", long, &cancel).await;
        assert_eq!(
            (outcome, report.exit_code, report.problem),
            (Outcome::Succeeded, Some(0), None)
        );
        assert_eq!(bytes, [3, 3]);
        let (outcome, report, _) = supervise("exit 3", b"", long, &cancel).await;
        assert_eq!((outcome, report.exit_code, report.problem), (Outcome::Failed, Some(3), None));
    }

    #[tokio::test]
    async fn all_processes_of_a_run_end_with_it() {
        let (long, cancel) = (Duration::from_secs(60), CancellationToken::new());
        let (outcome, report, _) = supervise("sleep 60 & exit 0", b"", long, &cancel).await;
        let problem = "leftover processes kept the outputs open and were terminated";
        assert_eq!((outcome, report.problem.as_deref()), (Outcome::Succeeded, Some(problem)));
        let short = Duration::from_millis(300);
        let (outcome, report, _) = supervise("sleep 60 & sleep 60", b"", short, &cancel).await;
        assert_eq!((outcome, report.problem), (Outcome::TimedOut, None));
        cancel.cancel();
        let (outcome, report, _) = supervise("sleep 60", b"", long, &cancel).await;
        assert_eq!((outcome, report.problem), (Outcome::Canceled, None));
    }
}
