//! The helper's side: its descriptors, and its job.

use super::job::JobEntry;
use super::wire::{Port, receive_descriptors};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

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

/// Performs the job that the agent sends over standard input; `jobs` are all that it may be.
///
/// # Errors
/// When the agent has closed the socket, or the job is unknown.
pub(crate) fn perform_job(jobs: &[JobEntry]) -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let descriptors = receive_descriptors(&socket)?;
    let mut port = Port(socket);
    let Some(name) = port.receive::<String>()? else { return Ok(()) };
    let job = jobs.iter().find(|(known, _)| *known == name);
    let (_, perform) = job.ok_or(io::ErrorKind::InvalidData)?;
    perform(port, descriptors)
}
