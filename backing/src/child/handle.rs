//! [`Child`]: the handle of a running server.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_recursion::async_recursion as boxed;
use nix::sys::signal::Signal;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::error::ChildError;
use super::exit::Exit;
use super::folder_lock::FolderLock;
use super::log::Log;
use super::process::Process;
use super::spec::ChildSpec;
use super::supervisor::{ChildEvent, Current, Request, Supervisor, first_delay};

/// A server that was started and is supervised.
///
/// Dropping it requests a stop without waiting; prefer [`Child::shut_down`].
#[derive(Debug)]
pub struct Child {
    name: &'static str,
    log: Log,
    current: Current,
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<ChildEvent>,
    ready: watch::Receiver<bool>,
    supervisor: JoinHandle<()>,
}

impl Child {
    /// Starts the server, waits until it is ready, and supervises it from then on.
    ///
    /// # Errors
    /// When its folder is in use, or it did not start, with the end of its log.
    #[boxed]
    pub async fn start(spec: ChildSpec) -> Result<Self, ChildError> {
        let folder_lock =
            FolderLock::acquire(&spec.dir, spec.name, spec.stop_signal, spec.stop_timeout).await?;
        let log = Log::new(&spec.dir, spec.name);
        let current = Current::default();
        let (requests_sender, requests) = mpsc::channel(8);
        let (events, _) = broadcast::channel(64);
        let (ready_sender, ready) = watch::channel(false);
        let name = spec.name;
        let mut supervisor = Supervisor {
            spec,
            log: log.clone(),
            folder_lock,
            current: Arc::clone(&current),
            requests,
            events: events.clone(),
            ready: ready_sender,
            pending_starts: Vec::new(),
            delay: first_delay(),
            ended_at: Instant::now(),
        };
        let first = supervisor.start().await?;
        let supervisor = tokio::spawn(supervisor.run(first));
        Ok(Self { name, log, current, requests: requests_sender, events, ready, supervisor })
    }

    /// The service's name: `nats-server`, `postgres`, `influxd`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Id of its current process, if it has one.
    pub fn pid(&self) -> Option<u32> {
        self.process().map(|process| process.pid())
    }

    /// Path of its log.
    pub fn log(&self) -> &Path {
        self.log.path()
    }

    /// Whether it was ready at the last check, and has not ended since.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until it is ready; `false` if that takes longer than `within`.
    #[boxed]
    pub async fn wait_ready(&self, timeout: Duration) -> bool {
        let mut ready = self.ready.clone();
        tokio::time::timeout(timeout, ready.wait_for(|ready| *ready))
            .await
            .is_ok_and(|outcome| outcome.is_ok())
    }

    /// Subscribes to future events. A receiver that lags by more than 64 events misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<ChildEvent> {
        self.events.subscribe()
    }

    /// Stops it, orderly or finally by force, and prevents restarts until [`Child::restart`].
    /// `None` if it had no process.
    ///
    /// # Errors
    /// When it is no longer supervised.
    #[boxed]
    pub async fn stop(&self) -> Result<Option<Exit>, ChildError> {
        let (reply, response) = oneshot::channel();
        self.request(Request::Stop(reply)).await?;
        response.await.map_err(|_| ChildError::SupervisorEnded { name: self.name })
    }

    /// Stops it permanently and releases its folder: another owner may use it when this returns.
    ///
    /// # Errors
    /// When it is no longer supervised.
    #[boxed]
    pub async fn shut_down(self) -> Result<Option<Exit>, ChildError> {
        let exit = self.stop().await?;
        drop(self.requests); // Without senders of requests, the supervisor ends.
        self.supervisor.await.map_err(|_| ChildError::SupervisorEnded { name: self.name })?;
        Ok(exit)
    }

    /// Starts it again on its port, immediately, and waits until it is ready. Has no effect if it
    /// is running. After an error it remains stopped.
    ///
    /// # Errors
    /// When it does not start, or is no longer supervised.
    #[boxed]
    pub async fn restart(&self) -> Result<(), ChildError> {
        let (reply, response) = oneshot::channel();
        self.request(Request::StartAgain(reply)).await?;
        response.await.map_err(|_| ChildError::SupervisorEnded { name: self.name })?
    }

    /// Kills its first process (SIGKILL): a crash, which triggers the restart policy.
    ///
    /// # Errors
    /// [`ChildError::NotRunning`].
    pub fn kill9(&self) -> Result<(), ChildError> {
        self.signal(Signal::SIGKILL)
    }

    /// Suspends all of its processes (SIGSTOP): its sockets stay open, without responses.
    ///
    /// # Errors
    /// [`ChildError::NotRunning`].
    pub fn suspend(&self) -> Result<(), ChildError> {
        self.signal_tree(Signal::SIGSTOP)
    }

    /// Resumes it after [`Child::suspend`] (SIGCONT).
    ///
    /// # Errors
    /// [`ChildError::NotRunning`].
    pub fn resume(&self) -> Result<(), ChildError> {
        self.signal_tree(Signal::SIGCONT)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), ChildError> {
        let sent = self.process().is_some_and(|process| process.signal(signal));
        if sent { Ok(()) } else { Err(ChildError::NotRunning { name: self.name }) }
    }

    fn signal_tree(&self, signal: Signal) -> Result<(), ChildError> {
        let sent = self.process().is_some_and(|process| process.signal_tree(signal));
        if sent { Ok(()) } else { Err(ChildError::NotRunning { name: self.name }) }
    }

    fn process(&self) -> Option<Arc<Process>> {
        self.current.lock().clone()
    }

    async fn request(&self, request: Request) -> Result<(), ChildError> {
        self.requests
            .send(request)
            .await
            .map_err(|_| ChildError::SupervisorEnded { name: self.name })
    }
}
