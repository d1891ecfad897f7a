//! Errors of child processes.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::exit::Exit;

/// The reason why a child process could not be started, signaled or stopped.
#[derive(Debug, Error)]
pub enum ChildError {
    /// Another process already runs this service on the same folder.
    #[error("{} is in use by another muster process; stop that one, or choose another folder", dir.display())]
    InUse {
        /// The service's folder.
        dir: PathBuf,
    },
    /// A file that the child needs could not be created or read.
    #[error("failed to {attempt} {}", path.display())]
    File {
        /// The attempted action: "open the log", …
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The operating system could not start the program.
    #[error("failed to start {name} ({})", program.display())]
    Spawn {
        /// The service.
        name: &'static str,
        /// The program.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process listens on its address.
    #[error(
        "{name} failed to listen on {address}, which another program uses; stop that program, or \
         choose another port"
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
        /// Path of the complete log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// It runs, and a check found that it can never become ready.
    #[error("{name} is running, but unusable: {reason}")]
    Unusable {
        /// The service.
        name: &'static str,
        /// Message of the check.
        reason: String,
    },
    /// It was not ready before the timeout.
    #[error("{name} was not ready after {} s ({reason}); the end of its log {}:\n{tail}", waited.as_secs(), log.display())]
    NotReadyInTime {
        /// The service.
        name: &'static str,
        /// The timeout.
        waited: Duration,
        /// Message of the last check.
        reason: String,
        /// Path of the complete log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A leftover process of an earlier owner did not end, even when killed.
    #[error("process {pid} of {name} from an earlier run does not end; kill it manually")]
    Leftover {
        /// The service.
        name: &'static str,
        /// The process.
        pid: u32,
    },
    /// There is no process to signal: it is stopped, or about to be restarted.
    #[error("{name} is not running")]
    NotRunning {
        /// The service.
        name: &'static str,
    },
    /// A stop was requested while it was starting.
    #[error("the start of {name} was canceled by a stop request")]
    StartCanceled {
        /// The service.
        name: &'static str,
    },
    /// The tokio runtime that supervised it has ended.
    #[error("{name} is no longer supervised, because the runtime has shut down")]
    SupervisorEnded {
        /// The service.
        name: &'static str,
    },
}

impl ChildError {
    /// Whether the server reported that its address is in use: another port may work.
    pub fn is_port_taken(&self) -> bool {
        match self {
            Self::PortTaken { .. } => true,
            Self::EndedAtStart { tail, .. } => reports_port_taken(tail),
            _ => false,
        }
    }
}

/// Checks for the messages of Go (nats-server, influxd) and PostgreSQL when they cannot bind.
fn reports_port_taken(tail: &str) -> bool {
    let tail = tail.to_ascii_lowercase();
    tail.contains("address already in use") || tail.contains("could not create any tcp/ip sockets")
}
