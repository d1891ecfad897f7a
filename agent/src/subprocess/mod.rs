//! Child processes: helpers, the programs of runs and of shells, and short commands.
//!
//! **Helpers** make all accesses to file systems that may not respond.
//!
//! A system call on a dead mount (NFS, FUSE) cannot be interrupted: a thread that makes it keeps
//! its process alive, with all of its files. So the agent starts its own binary again as a helper,
//! sends it requests over a socket, and abandons it if it does not respond.
//!
//! | file | contents |
//! |---|---|
//! | `process` | the agent's side of a helper: starts it, sends and reads messages, kills it |
//! | `wire` | messages on the socket, and the descriptors that accompany a job |
//! | `job` | what a helper does; each job is defined where its results are used |
//! | `entry` | the helper's side: closes inherited descriptors, reads its job and performs it |
//! | `launch` | the job that becomes a program of a run or of a shell |
//! | `child` | the end of a child process |
//! | `group` | all processes of a run |
//! | `capture` | short commands, with their output |
//!
//! Invariant: the agent's own thread accesses no path that an order or an operator names.

mod capture;
mod child;
mod entry;
pub(crate) mod group;
mod job;
mod launch;
mod process;
mod wire;

use std::time::Duration;

pub(crate) use capture::{output_of, run_command};
pub(crate) use child::{has_ended, pid_of, reap, reap_later, wait_for_end};
pub use entry::close_inherited;
pub(crate) use entry::perform_job;
pub(crate) use group::{Process, RUN_TAG_VARIABLE};
pub(crate) use job::{HelperJob, job};
pub(crate) use launch::{Launch, LaunchError, Launcher, PATH, Program};
pub(crate) use process::Helper;
pub use process::{HELPER_ARGUMENT, set_program};
pub(crate) use wire::{Port, path_bytes};

/// Maximum time without a report from a helper: then its file system counts as unresponsive.
pub(crate) const HELPER_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the message for a file system that does not respond.
#[must_use]
pub fn unresponsive_message(path: &str) -> String {
    format!("the file system at {path} does not respond")
}
