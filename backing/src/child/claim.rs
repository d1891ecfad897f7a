//! One owner a folder: the lock that says so, and the end of what a killed owner left behind.
//!
//! The kernel ends our children with us (`setpriv --pdeathsig`); a restart right after a kill can
//! still meet one that is shutting down, and without `setpriv` one that never will.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::ChildError;
use super::family;
use crate::files;

/// Held while a service's folder is ours. The kernel releases the lock when we die.
#[derive(Debug)]
pub(crate) struct Claim {
    _lock: File,
    pid_file: PathBuf,
}

impl Claim {
    /// Takes the folder, and ends the process that an earlier owner left, orderly if it can.
    pub(crate) async fn take(
        dir: &Path,
        name: &'static str,
        stop_signal: Signal,
        stop_within: Duration,
    ) -> Result<Self, ChildError> {
        let path = dir.join(format!("{name}.lock"));
        let file_error = |attempt, source| ChildError::File { attempt, path: path.clone(), source };
        files::make_private_dir(dir).map_err(|source| file_error("make the folder of", source))?;
        let lock = File::create(&path).map_err(|source| file_error("open", source))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => ChildError::InUse { dir: dir.to_path_buf() },
            TryLockError::Error(source) => file_error("lock", source),
        })?;
        let claim = Self { _lock: lock, pid_file: dir.join(format!("{name}.pid")) };
        if let Some(pid) = claim.leftover() {
            tracing::info!(name, pid, "waiting for the end of a server that an earlier run left");
            end(name, pid, stop_signal, stop_within).await?;
        }
        Ok(claim)
    }

    /// Notes the process that now runs, for an owner after us.
    pub(crate) fn note(&self, pid: u32) -> Result<(), ChildError> {
        let Some(started) = family::started(pid) else {
            return Ok(()); // It has ended already; the supervisor will notice.
        };
        fs::write(&self.pid_file, format!("{pid} {started} {}\n", boot_id())).map_err(|source| {
            ChildError::File { attempt: "write", path: self.pid_file.clone(), source }
        })
    }

    /// Forgets the process, which was seen to end.
    pub(crate) fn clear(&self) {
        if let Err(error) = fs::remove_file(&self.pid_file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, file = %self.pid_file.display(), "pid file not removed");
        }
    }

    /// The process of an earlier owner, if that very process still lives.
    fn leftover(&self) -> Option<u32> {
        let text = fs::read_to_string(&self.pid_file).ok()?;
        let mut words = text.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        let started: u64 = words.next()?.parse().ok()?;
        (words.next()? == boot_id() && family::started(pid) == Some(started)).then_some(pid)
    }
}

async fn end(
    name: &'static str,
    pid: u32,
    stop_signal: Signal,
    stop_within: Duration,
) -> Result<(), ChildError> {
    let started = family::started(pid);
    for (signal, patience) in
        [(stop_signal, stop_within), (Signal::SIGKILL, Duration::from_secs(5))]
    {
        let target = Pid::from_raw(pid.cast_signed());
        // Either may fail because the process is gone, which is what is waited for.
        let _ = kill(target, signal);
        let _ = kill(target, Signal::SIGCONT);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if family::started(pid).is_none() || family::started(pid) != started {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Err(ChildError::Leftover { name, pid })
}

/// Differs after every boot, so that an old pid file names nobody.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let id = id.trim();
    if id.is_empty() { "unknown".into() } else { id.into() }
}
