//! The helper's side: the main function of a helper process.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::Job;
use super::launch::become_program;
use super::wire::{Port, receive_descriptors};

/// The only argument of a helper process.
pub const HELPER_ARGUMENT: &str = "__helper";

/// Closes every descriptor except the standard three. Must be called before any file is opened:
/// programs that the agent starts must not inherit descriptors of a supervisor or a shell.
pub fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The folder's own descriptor is already closed.
        let _ = nix::unistd::close(fd);
    }
}

/// Performs the job that the agent sends over standard input.
#[must_use]
pub fn run_helper() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // The agent detects the closed socket; there is no other recipient of a report.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let descriptors = receive_descriptors(&socket)?;
    let mut port = Port(socket);
    let Some(job) = port.receive::<Job>()? else { return Ok(()) };
    match job {
        Job::Launch(launch) => become_program(&mut port, launch, descriptors),
        Job::Files(job) => crate::files::serve(port, job),
        Job::Upload(job) => crate::operations::serve_upload(port, &job),
    }
}
