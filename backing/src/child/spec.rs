//! What to run, and how to treat it.

use std::ffi::OsString;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::run_as::RunAs;

/// How long a start takes and what it waits for, about once a second.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The service.
    pub name: &'static str,
    /// Since its process was started.
    pub elapsed: Duration,
    /// What the last readiness check said.
    pub waiting_for: String,
}

/// Told of a slow start.
pub(crate) type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// Why a server cannot be used yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    /// It may be, later: ask again.
    Yet(String),
    /// It never will be: waiting is no use.
    Ever(String),
}

type CheckFuture = Pin<Box<dyn Future<Output = Result<(), NotReady>> + Send>>;

/// A readiness check. It is asked again and again, so it must be cheap and bounded in time.
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

    pub(crate) async fn ask(&self) -> Result<(), NotReady> {
        (self.0)().await
    }
}

/// What happens after the server ended without being asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// It is started again, on the same port, with a growing delay (0.1 s to 5 s).
    #[default]
    Always,
    /// It stays away until [`super::Child::start_again`].
    Never,
}

/// One server, ready to be started.
#[derive(Clone)]
pub struct ChildSpec {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Where it will listen. Looked at before each start: a readiness check must not be answered
    /// by a stranger who has the port.
    pub(crate) listens: Vec<SocketAddr>,
    /// The service's folder: holds the lock, the pid file and `logs/`.
    pub(crate) dir: PathBuf,
    /// A folder that the program gets open as file descriptor 3, so that it reaches it as
    /// `/proc/self/fd/3` even where its user may not walk the path.
    pub(crate) open_dir: Option<PathBuf>,
    pub(crate) run_as: Option<RunAs>,
    /// Environment variables with their defaults: a value in our own environment comes first.
    pub(crate) variables: &'static [(&'static str, &'static str)],
    /// The signal for an orderly and quick end.
    pub(crate) stop_signal: Signal,
    /// After this it is killed.
    pub(crate) stop_within: Duration,
    /// After this a start has failed.
    pub(crate) start_within: Duration,
    pub(crate) restart: Restart,
    pub(crate) check: Check,
    /// A start that ends with one of these in its log is tried again for a while.
    pub(crate) transient: &'static [&'static str],
    pub(crate) on_progress: Option<OnProgress>,
}
