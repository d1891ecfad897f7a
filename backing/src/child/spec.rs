//! The specification of a server process and of its supervision.

use std::ffi::OsString;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::run_as::RunAs;

/// Progress of a slow start, about once per second.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Name of the service.
    pub name: &'static str,
    /// Time since its process was started.
    pub elapsed: Duration,
    /// Message of the last readiness check.
    pub waiting_for: String,
}

/// Callback for a slow start.
pub(crate) type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// The reason why a server is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    /// It may become ready: check again.
    Yet(String),
    /// It can never become ready.
    Ever(String),
}

type CheckFuture = Pin<Box<dyn Future<Output = Result<(), NotReady>> + Send>>;

/// A readiness check. It is repeated, so it must be cheap and have a timeout.
#[derive(Clone)]
pub(crate) struct Check(Arc<dyn Fn() -> CheckFuture + Send + Sync>);

impl Check {
    pub(crate) fn new<F, Fut>(check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), NotReady>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(check())))
    }

    pub(crate) async fn run(&self) -> Result<(), NotReady> {
        (self.0)().await
    }
}

/// Reaction to an unrequested end of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// It is restarted on the same port, with a growing delay (0.1 s to 5 s).
    #[default]
    Always,
    /// It remains stopped until [`super::Child::restart`].
    Never,
}

/// The specification of one server.
#[derive(Clone)]
pub struct ChildSpec {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Addresses on which it will listen. They are checked before each start: another process on
    /// the port must not pass the readiness check.
    pub(crate) listen_addresses: Vec<SocketAddr>,
    /// The service's folder: contains the lock, the pid file and `logs/`.
    pub(crate) dir: PathBuf,
    /// A folder that the program inherits as file descriptor 3, so that it is reachable as
    /// `/proc/self/fd/3` even if its user cannot traverse the path.
    pub(crate) open_dir: Option<PathBuf>,
    pub(crate) run_as: Option<RunAs>,
    /// Environment variables with their defaults: a value in this process's environment takes
    /// precedence.
    pub(crate) variables: &'static [(&'static str, &'static str)],
    /// The signal for an orderly and quick end.
    pub(crate) stop_signal: Signal,
    /// Timeout after which it is killed.
    pub(crate) stop_timeout: Duration,
    /// Timeout of a start.
    pub(crate) start_timeout: Duration,
    pub(crate) restart: Restart,
    pub(crate) check: Check,
    /// Log messages of transient errors: a start that fails with one of them is retried for a
    /// while.
    pub(crate) transient: &'static [&'static str],
    pub(crate) on_progress: Option<OnProgress>,
}
