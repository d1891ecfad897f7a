//! What can go wrong with a child process.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::process::Exit;

/// A child process that could not be started, signaled or stopped.
#[derive(Debug, Error)]
pub enum ChildError {
    /// Another process already runs this service on the same folder.
    #[error("{} is in use by another muster process; stop that one, or choose another folder", dir.display())]
    InUse {
        /// The service's folder.
        dir: PathBuf,
    },
    /// A file that the child needs could not be made or read.
    #[error("cannot {attempt} {}", path.display())]
    File {
        /// What was attempted: "open the log", …
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The operating system would not start the program.
    #[error("cannot start {name} ({})", program.display())]
    Spawn {
        /// The service.
        name: &'static str,
        /// The program that was to be run.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else listens where it is to listen.
    #[error(
        "{name} cannot listen on {address}, as another program does; stop that one, or choose another port"
    )]
    PortTaken {
        /// The service.
        name: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// It ended before it was ready.
    #[error("{name} ended while starting ({exit}); the end of its log {}:\n{tail}", log.display())]
    EndedAtStart {
        /// The service.
        name: &'static str,
        /// How it ended.
        exit: Exit,
        /// Where all of its log is.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// It runs, and a check says that it never will be ready.
    #[error("{name} runs and cannot be used: {reason}")]
    Unusable {
        /// The service.
        name: &'static str,
        /// What the check said.
        reason: String,
    },
    /// It was not ready in time.
    #[error("{name} was not ready after {} s ({reason}); the end of its log {}:\n{tail}", waited.as_secs(), log.display())]
    NotReadyInTime {
        /// The service.
        name: &'static str,
        /// How long was waited.
        waited: Duration,
        /// What the last check said.
        reason: String,
        /// Where all of its log is.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A left-over process of an earlier owner did not end, even when killed.
    #[error("process {pid} of {name}, left by an earlier run, does not end; end it by hand")]
    Leftover {
        /// The service.
        name: &'static str,
        /// The process.
        pid: u32,
    },
    /// There is no process to signal: it is stopped, or about to be restarted.
    #[error("{name} is not running now")]
    NotRunning {
        /// The service.
        name: &'static str,
    },
    /// It was asked to stop while it was still starting.
    #[error("the start of {name} was given up, as it was asked to stop")]
    GivenUp {
        /// The service.
        name: &'static str,
    },
    /// The tokio runtime that watched it has ended.
    #[error("{name} is no longer watched, as the runtime that watched it has shut down")]
    Unwatched {
        /// The service.
        name: &'static str,
    },
}

impl ChildError {
    /// Whether the server said that its address is taken: another port may serve.
    pub fn is_port_taken(&self) -> bool {
        match self {
            Self::PortTaken { .. } => true,
            Self::EndedAtStart { tail, .. } => says_port_taken(tail),
            _ => false,
        }
    }
}

/// What Go (nats-server, influxd) and PostgreSQL print when they cannot bind.
fn says_port_taken(tail: &str) -> bool {
    let tail = tail.to_ascii_lowercase();
    tail.contains("address already in use") || tail.contains("could not create any tcp/ip sockets")
}
