//! The helper's side: what a process does that was started as one.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::Job;
use super::launch::become_program;
use super::wire::{Port, receive_descriptors};

/// The one argument of a helper process.
pub const HELPER_ARGUMENT: &str = "__helper";

/// Closes every descriptor but the standard three. To be called before anything is opened: what a
/// supervisor or a shell left open is not for the programs that the agent starts.
pub fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The folder's own is closed already.
        let _ = nix::unistd::close(fd);
    }
}

/// Does the job that the agent sends over standard input.
#[must_use]
pub fn run_helper() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // The agent sees the closed socket; there is no one else to report to.
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
