//! Helper processes: they make all accesses to file systems that may not respond.
//!
//! A system call on a dead mount (NFS, FUSE) cannot be interrupted: a thread that makes it keeps
//! its process alive, with all of its files. So the agent starts its own binary again as a helper,
//! sends it requests over a socket, and abandons it if it does not respond.
//!
//! | file | contents |
//! |---|---|
//! | `process` | the agent's side: starts a helper, sends its job, reads its messages, kills it |
//! | `wire` | messages on the socket, and the descriptors that accompany a job |
//! | `entry` | the helper's side: closes inherited descriptors, reads its job and performs it |
//! | `launch` | the job that becomes a program of a run or of a shell |
//!
//! Invariant: the agent's own thread accesses no path that an order or an operator names.

mod entry;
mod launch;
mod process;
mod wire;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use entry::{HELPER_ARGUMENT, close_inherited, run_helper};
pub(crate) use launch::{Launch, LaunchError, Program, launch};
pub use process::set_program;
pub(crate) use process::{Helper, reap_later};
pub(crate) use wire::{Port, path_bytes};

use crate::files::FilesJob;
use crate::operations::UploadJob;

/// Maximum time without a report from a helper: then its file system counts as unresponsive.
pub(crate) const HELPER_TIMEOUT: Duration = Duration::from_secs(10);

/// The job of a helper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Job {
    /// Become a program.
    Launch(Launch),
    /// Serve files by SFTP.
    Files(FilesJob),
    /// Read a file or a folder that is uploaded.
    Upload(UploadJob),
}

/// Returns the message for a file system that does not respond.
#[must_use]
pub fn unresponsive_message(path: &str) -> String {
    format!("the file system at {path} does not respond")
}
