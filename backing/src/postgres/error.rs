//! Errors of PostgreSQL.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::child::{ChildError, OneShotError};
use crate::find::FindError;
use crate::ports::NoFreePort;

/// The oldest major version with which muster is tested.
pub(super) const MIN_MAJOR_VERSION: u32 = 14;

/// The reason why PostgreSQL could not be started.
#[derive(Debug, Error)]
pub enum PostgresError {
    /// No suitable binaries were found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// No port is free.
    #[error(transparent)]
    Port(#[from] NoFreePort),
    /// The process did not start, or is not running.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// initdb failed.
    #[error("failed to create a PostgreSQL cluster")]
    Initdb(#[source] OneShotError),
    /// A file could not be created or read.
    #[error("failed to {attempt} {}", path.display())]
    File {
        /// The attempted action.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The folder contains something else.
    #[error("{} exists and is not a PostgreSQL cluster; move it, or choose another folder", dir.display())]
    NoCluster {
        /// The data folder.
        dir: PathBuf,
    },
    /// The data belongs to another user, and the process is not root.
    #[error("{} belongs to user id {owner}; run as root, as when it was created, or choose another folder", data.display())]
    ForeignData {
        /// The data folder.
        data: PathBuf,
        /// Owner of the folder.
        owner: u32,
    },
    /// The user that PostgreSQL must run as cannot reach the binaries.
    #[error("PostgreSQL must not run as root, and user {user} has no access to {} (denied at {}); install PostgreSQL system-wide, or set MUSTER_CACHE to a folder that all users can read", bin.display(), barred.display())]
    BinariesInaccessible {
        /// The user.
        user: String,
        /// Folder of the binaries.
        bin: PathBuf,
        /// The folder that the user cannot traverse.
        barred: PathBuf,
    },
    /// The binaries are too old.
    #[error("the PostgreSQL in {} is version {major}, and muster needs {MIN_MAJOR_VERSION} or newer; run `make deps`, or set MUSTER_POSTGRES_BIN", bin.display())]
    TooOld {
        /// Folder of the binaries.
        bin: PathBuf,
        /// Version of the binaries.
        major: u32,
    },
    /// The system's user database could not be read, or has no suitable user.
    #[error("failed to determine the user that PostgreSQL runs as")]
    RunAs(#[source] io::Error),
    /// The server runs, and the database could not be created in it.
    #[error("failed to create the database muster")]
    Database(#[source] tokio_postgres::Error),
}
