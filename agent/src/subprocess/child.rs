//! The end of a child process: detected, awaited and reaped.

use std::process::Child;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::Signal;
use tokio::time::sleep;

/// Interval between checks whether the child has ended, in case its signal was lost.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Initial and maximum interval between checks whether a killed helper has ended.
const REAP_INTERVAL: Duration = Duration::from_millis(20);
const MAX_REAP_INTERVAL: Duration = Duration::from_secs(10);

pub(crate) fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))
}

/// Whether the child has ended; the child is not reaped.
pub(crate) fn has_ended(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(pid), flags) {
        Ok(WaitStatus::StillAlive) => false,
        // No longer a child: other code has reaped it.
        Ok(_) | Err(_) => true,
    }
}

/// Reaps the child if it has ended; true if there is nothing left to reap.
pub(crate) fn reap(pid: u32) -> bool {
    !matches!(waitpid(pid_of(pid), Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
}

/// Returns when the child has ended; the child is not reaped.
pub(crate) async fn wait_for_end(pid: Pid, signals: &mut Option<Signal>) {
    while !has_ended(pid) {
        match signals {
            Some(signals) => {
                tokio::select! {
                    _ = signals.recv() => {}
                    () = sleep(CHECK_INTERVAL) => {}
                }
            }
            None => sleep(CHECK_INTERVAL / 50).await,
        }
    }
}

/// Waits for a child in the background, even if an unresponsive file system blocks it for a long
/// time.
pub(crate) fn reap_later(mut child: Child) {
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    // Without a runtime the agent is ending, and its children are reparented.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        let mut interval = REAP_INTERVAL;
        while matches!(child.try_wait(), Ok(None)) {
            sleep(interval).await;
            interval = (interval * 2).min(MAX_REAP_INTERVAL);
        }
    });
}
