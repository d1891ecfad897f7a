//! The task that owns a server's current process: detects its end, restarts it, and executes the
//! requests of [`super::Child`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::error::ChildError;
use super::exit::Exit;
use super::folder_lock::FolderLock;
use super::log::Log;
use super::process::Process;
use super::spec::{ChildSpec, NotReady, Progress, Restart};
use crate::ports;

const MIN_RESTART_DELAY: Duration = Duration::from_millis(100);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(5);
/// Uptime after which the restart delay is reset.
const RECOVERED_AFTER: Duration = Duration::from_secs(30);
/// Maximum time for which the first start is repeated after transient errors.
const TRANSIENT_RETRY_TIMEOUT: Duration = Duration::from_secs(20);
/// Timeout of a readiness check; then the server counts as not ready yet.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between checks of the log's size.
const LOG_TRIM_INTERVAL: Duration = Duration::from_secs(60);

/// An event of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildEvent {
    /// Its process ended.
    Exited {
        /// How it ended.
        exit: Exit,
        /// Whether its end was requested.
        is_requested: bool,
    },
    /// It is running again, and ready.
    Restarted {
        /// Its new process.
        pid: u32,
        /// Time from the end of the old process until it was ready.
        down: Duration,
    },
    /// Restarting it failed; an unrequested restart is retried soon.
    RestartFailed {
        /// The error, as text.
        reason: String,
    },
}

/// A request of a handle.
pub(super) enum Request {
    Stop(oneshot::Sender<Option<Exit>>),
    StartAgain(oneshot::Sender<Result<(), ChildError>>),
}

/// The current process, shared with the handle so that signals need no queue.
pub(super) type Current = Arc<Mutex<Option<Arc<Process>>>>;

pub(super) struct Supervisor {
    pub(super) spec: ChildSpec,
    pub(super) log: Log,
    pub(super) folder_lock: FolderLock,
    pub(super) current: Current,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) events: broadcast::Sender<ChildEvent>,
    pub(super) ready: watch::Sender<bool>,
    /// Requests for a start that wait for its outcome.
    pub(super) pending_starts: Vec<oneshot::Sender<Result<(), ChildError>>>,
    pub(super) delay: Duration,
    pub(super) ended_at: Instant,
}

enum Next {
    Watch(Arc<Process>),
    Pause,
    Launch,
    Stopped,
    End,
}

impl Supervisor {
    /// Starts the server for the first time. Transient errors are retried.
    pub(super) async fn start(&mut self) -> Result<Arc<Process>, ChildError> {
        let started_at = Instant::now();
        loop {
            let error = match self.spawn() {
                Ok(process) => match until_ready(&self.spec, &self.log, &process).await {
                    Ok(()) => {
                        self.ready.send_replace(true);
                        return Ok(process);
                    }
                    Err(error) => {
                        self.end(&process).await;
                        error
                    }
                },
                Err(error) => error,
            };
            if !self.is_transient(&error) || started_at.elapsed() > TRANSIENT_RETRY_TIMEOUT {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Supervises the process until the handle is dropped.
    pub(super) async fn run(mut self, first: Arc<Process>) {
        let mut next = Next::Watch(first);
        loop {
            next = match next {
                Next::Watch(process) => self.watch(process).await,
                Next::Pause => self.pause().await,
                Next::Launch => self.launch().await,
                Next::Stopped => self.wait_while_stopped().await,
                Next::End => return,
            };
        }
    }

    async fn watch(&mut self, process: Arc<Process>) -> Next {
        let started_at = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOG_TRIM_INTERVAL) => self.log.trim(),
                exit = process.exited() => {
                    self.record_exit(exit, false);
                    tracing::warn!(
                        name = self.spec.name,
                        %exit,
                        log = %self.log.path().display(),
                        "a server ended unexpectedly"
                    );
                    if started_at.elapsed() > RECOVERED_AFTER {
                        self.delay = MIN_RESTART_DELAY;
                    }
                    return match self.spec.restart {
                        Restart::Always => Next::Pause,
                        Restart::Never => Next::Stopped,
                    };
                }
                request = self.requests.recv() => match request {
                    Some(Request::StartAgain(reply)) => {
                        let _ = reply.send(Ok(())); // Already running.
                    }
                    Some(Request::Stop(reply)) => {
                        let exit = self.end(&process).await;
                        let _ = reply.send(Some(exit));
                        return Next::Stopped;
                    }
                    None => {
                        self.end(&process).await;
                        return Next::End;
                    }
                }
            }
        }
    }

    async fn pause(&mut self) -> Next {
        let delay = self.delay;
        self.delay = (delay * 2).min(MAX_RESTART_DELAY);
        tokio::select! {
            () = tokio::time::sleep(delay) => Next::Launch,
            request = self.requests.recv() => self.handle_request_while_down(request),
        }
    }

    async fn wait_while_stopped(&mut self) -> Next {
        let request = self.requests.recv().await;
        self.handle_request_while_down(request)
    }

    fn handle_request_while_down(&mut self, request: Option<Request>) -> Next {
        match request {
            Some(Request::StartAgain(reply)) => {
                self.pending_starts.push(reply);
                Next::Launch
            }
            Some(Request::Stop(reply)) => {
                let _ = reply.send(None);
                Next::Stopped
            }
            None => Next::End,
        }
    }

    async fn launch(&mut self) -> Next {
        let process = match self.spawn() {
            Ok(process) => process,
            Err(error) => return self.launch_failed(error),
        };
        loop {
            tokio::select! {
                outcome = until_ready(&self.spec, &self.log, &process) => return match outcome {
                    Ok(()) => {
                        self.launched(&process);
                        Next::Watch(process)
                    }
                    Err(error) => {
                        self.end(&process).await;
                        self.launch_failed(error)
                    }
                },
                request = self.requests.recv() => match request {
                    Some(Request::StartAgain(reply)) => self.pending_starts.push(reply),
                    Some(Request::Stop(reply)) => {
                        let exit = self.end(&process).await;
                        for waiting in self.pending_starts.drain(..) {
                            let _ = waiting.send(Err(ChildError::StartCanceled { name: self.spec.name }));
                        }
                        let _ = reply.send(Some(exit));
                        return Next::Stopped;
                    }
                    None => {
                        self.end(&process).await;
                        return Next::End;
                    }
                }
            }
        }
    }

    fn launched(&mut self, process: &Process) {
        let down = self.ended_at.elapsed();
        tracing::info!(
            name = self.spec.name,
            pid = process.pid(),
            seconds = down.as_secs_f32(),
            "a server was restarted"
        );
        self.ready.send_replace(true);
        self.emit(ChildEvent::Restarted { pid: process.pid(), down });
        for waiting in self.pending_starts.drain(..) {
            let _ = waiting.send(Ok(()));
        }
    }

    /// Handles a failed start: an automatic restart is retried; a requested one returns the error.
    fn launch_failed(&mut self, error: ChildError) -> Next {
        tracing::warn!(name = self.spec.name, %error, "failed to restart a server");
        self.emit(ChildEvent::RestartFailed { reason: error.to_string() });
        let mut waiting = self.pending_starts.drain(..);
        let Some(first) = waiting.next() else {
            return Next::Pause;
        };
        let _ = first.send(Err(error));
        for another in waiting {
            let _ = another.send(Err(ChildError::StartCanceled { name: self.spec.name }));
        }
        Next::Stopped
    }

    fn spawn(&mut self) -> Result<Arc<Process>, ChildError> {
        if let Some(address) =
            self.spec.listen_addresses.iter().copied().find(|address| ports::is_taken(*address))
        {
            return Err(ChildError::PortTaken { name: self.spec.name, address });
        }
        let (log, begins) = self.log.open()?;
        let process = Arc::new(Process::spawn(&self.spec, log, begins)?);
        *self.current.lock() = Some(Arc::clone(&process));
        self.folder_lock.record_pid(process.pid())?;
        Ok(process)
    }

    async fn end(&mut self, process: &Process) -> Exit {
        let exit = process.stop(self.spec.stop_timeout).await;
        self.record_exit(exit, true);
        exit
    }

    fn record_exit(&mut self, exit: Exit, is_requested: bool) {
        *self.current.lock() = None;
        self.folder_lock.clear_pid();
        self.ready.send_replace(false);
        self.ended_at = Instant::now();
        self.emit(ChildEvent::Exited { exit, is_requested });
    }

    fn emit(&self, event: ChildEvent) {
        let _ = self.events.send(event); // There may be no receiver.
    }

    fn is_transient(&self, error: &ChildError) -> bool {
        matches!(error, ChildError::EndedAtStart { tail, .. } if self.spec.transient.iter().any(|text| tail.contains(text)))
    }
}

/// Returns the first delay of a new supervisor.
pub(super) const fn first_delay() -> Duration {
    MIN_RESTART_DELAY
}

async fn until_ready(spec: &ChildSpec, log: &Log, process: &Process) -> Result<(), ChildError> {
    let started_at = Instant::now();
    let mut interval = Duration::from_millis(10);
    let mut reported = Duration::ZERO;
    loop {
        let reason = tokio::select! {
            exit = process.exited() => return Err(ChildError::EndedAtStart {
                name: spec.name, exit, log: log.path().into(), tail: log.tail(process.log_offset),
            }),
            result = tokio::time::timeout(CHECK_TIMEOUT, spec.check.run()) => match result {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(NotReady::Ever(reason))) => return Err(ChildError::Unusable { name: spec.name, reason }),
                Ok(Err(NotReady::Yet(reason))) => reason,
                Err(_) => "it does not respond".into(),
            },
        };
        let elapsed = started_at.elapsed();
        if elapsed > spec.start_timeout {
            let tail = log.tail(process.log_offset);
            return Err(ChildError::NotReadyInTime {
                name: spec.name,
                waited: elapsed,
                reason,
                log: log.path().into(),
                tail,
            });
        }
        if elapsed - reported >= Duration::from_secs(1) {
            reported = elapsed;
            if let Some(report) = &spec.on_progress {
                report(Progress { name: spec.name, elapsed, waiting_for: reason });
            }
        }
        tokio::time::sleep(interval).await;
        interval = (interval * 3 / 2).min(Duration::from_millis(250));
    }
}
