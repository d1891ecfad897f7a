//! Errors of InfluxDB.

use std::io;
use std::path::PathBuf;

use muster_metric_store::StoreError;
use thiserror::Error;

use crate::child::{ChildError, OneShotError};
use crate::find::FindError;
use crate::ports::NoFreePort;

/// The reason why InfluxDB could not be started.
#[derive(Debug, Error)]
pub enum InfluxError {
    /// The binary was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// No port is free.
    #[error(transparent)]
    Port(#[from] NoFreePort),
    /// The process did not start, or is not running.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The binary does not print its version.
    #[error("failed to read the version of {}; run `make deps`, or set MUSTER_INFLUXD", program.display())]
    Version {
        /// The binary.
        program: PathBuf,
        /// The cause.
        source: OneShotError,
    },
    /// The binary is of an unsupported generation.
    #[error("{} printed the version {printed:?}, and only InfluxDB 1.x and 2.x are supported; set MUSTER_INFLUXD to one of these, or run InfluxDB separately and give muster its address", program.display())]
    Unsupported {
        /// The binary.
        program: PathBuf,
        /// The version that it printed.
        printed: String,
    },
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
    /// InfluxDB runs, and a request to it failed.
    #[error("failed to {attempt}")]
    Store {
        /// The attempted action.
        attempt: &'static str,
        /// The cause.
        source: StoreError,
    },
    /// The administrator in its data has another password.
    #[error(
        "InfluxDB rejects the password that is stored with its data folder; restore both from the \
         same backup, or choose another folder"
    )]
    ForeignData,
}
