//! One owner per folder: its lock, and the end of processes that a killed owner left running.
//!
//! The kernel ends the children together with their owner (`setpriv --pdeathsig`); but a restart
//! immediately after a kill can still find one that is shutting down, or, without `setpriv`, one
//! that continues to run.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::ChildError;
use super::process_tree;
use crate::files;

/// Held while this process owns a service's folder. The kernel releases the lock when the process
/// ends.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _lock: File,
    pid_file: PathBuf,
}

impl FolderLock {
    /// Locks the folder, and ends the process that an earlier owner left, orderly if possible.
    pub(crate) async fn acquire(
        dir: &Path,
        name: &'static str,
        stop_signal: Signal,
        stop_timeout: Duration,
    ) -> Result<Self, ChildError> {
        let path = dir.join(format!("{name}.lock"));
        let file_error = |attempt, source| ChildError::File { attempt, path: path.clone(), source };
        files::make_private_dir(dir)
            .map_err(|source| file_error("create the folder of", source))?;
        let lock = File::create(&path).map_err(|source| file_error("open", source))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => ChildError::InUse { dir: dir.to_path_buf() },
            TryLockError::Error(source) => file_error("lock", source),
        })?;
        let folder_lock = Self { _lock: lock, pid_file: dir.join(format!("{name}.pid")) };
        if let Some(pid) = folder_lock.leftover() {
            tracing::info!(name, pid, "waiting for a server of an earlier run to end");
            end(name, pid, stop_signal, stop_timeout).await?;
        }
        Ok(folder_lock)
    }

    /// Records the current process, for the next owner.
    pub(crate) fn record_pid(&self, pid: u32) -> Result<(), ChildError> {
        let Some(started) = process_tree::start_time(pid) else {
            return Ok(()); // It has already ended; the supervisor will detect it.
        };
        fs::write(&self.pid_file, format!("{pid} {started} {}\n", boot_id())).map_err(|source| {
            ChildError::File { attempt: "write", path: self.pid_file.clone(), source }
        })
    }

    /// Deletes the record of a process that has ended.
    pub(crate) fn clear_pid(&self) {
        if let Err(error) = fs::remove_file(&self.pid_file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(
                %error,
                file = %self.pid_file.display(),
                "failed to remove the pid file"
            );
        }
    }

    /// Returns the process of an earlier owner, if exactly that process is still running.
    fn leftover(&self) -> Option<u32> {
        let text = fs::read_to_string(&self.pid_file).ok()?;
        let mut words = text.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        let started: u64 = words.next()?.parse().ok()?;
        (words.next()? == boot_id() && process_tree::start_time(pid) == Some(started))
            .then_some(pid)
    }
}

async fn end(
    name: &'static str,
    pid: u32,
    stop_signal: Signal,
    stop_timeout: Duration,
) -> Result<(), ChildError> {
    let started = process_tree::start_time(pid);
    for (signal, timeout) in
        [(stop_signal, stop_timeout), (Signal::SIGKILL, Duration::from_secs(5))]
    {
        let target = Pid::from_raw(pid.cast_signed());
        // Either may fail because the process has ended, which is the goal.
        let _ = kill(target, signal);
        let _ = kill(target, Signal::SIGCONT);
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            if process_tree::start_time(pid).is_none() || process_tree::start_time(pid) != started {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Err(ChildError::Leftover { name, pid })
}

/// Returns the boot id: an old pid file is invalid after a reboot.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let id = id.trim();
    if id.is_empty() { "unknown".into() } else { id.into() }
}
