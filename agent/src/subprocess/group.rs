//! The processes of a run: its process group, and processes that left the group.
//!
//! The leader is reaped only after its group was handled: until then no other process can get its
//! id, so a signal reaches only the run.

use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::child::pid_of;

/// Environment variable with the run tag; it identifies processes that left the group.
pub(crate) const RUN_TAG_VARIABLE: &str = "MUSTER_RUN";

/// Interval between checks whether processes have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum time until killed processes disappear.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// A process that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Id of the process, and of its group.
    pub(crate) pid: u32,
    /// Start time according to the kernel, which distinguishes the process from a later one with
    /// the same id.
    pub(crate) ticks: u64,
}

/// Returns the process with its start time, which distinguishes it from a later one with the same
/// id.
pub(crate) fn identify(pid: u32) -> Option<Process> {
    let stat = stat(i32::try_from(pid).ok()?)?;
    Some(Process { pid, ticks: stat.starttime })
}

fn stat(pid: i32) -> Option<procfs::process::Stat> {
    procfs::process::Process::new(pid).ok()?.stat().ok()
}

fn is_alive(stat: &procfs::process::Stat) -> bool {
    !matches!(stat.state, 'Z' | 'X' | 'x')
}

/// Returns the live processes of a run: those in its group, and with `with_strays` those that it
/// started in other groups. `None` if the kernel provides no information.
fn members(run_tag: Uuid, group: Option<Pid>, with_strays: bool) -> Option<Vec<Pid>> {
    let tag = format!("{RUN_TAG_VARIABLE}={run_tag}");
    let own = std::process::id();
    let ours = procfs::process::all_processes().ok()?.flatten().filter_map(|process| {
        let stat = process.stat().ok()?;
        if !is_alive(&stat) || u32::try_from(stat.pid) == Ok(own) {
            return None;
        }
        let is_in_group = group.is_some_and(|group| stat.pgrp == group.as_raw());
        let is_ours = is_in_group || (with_strays && has_tag(stat.pid, tag.as_bytes()));
        is_ours.then(|| Pid::from_raw(stat.pid))
    });
    Some(ours.collect())
}

fn has_tag(pid: i32, run_tag: &[u8]) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == run_tag)
}

fn signal_all(group: Option<Pid>, members: &[Pid], signal: Signal) {
    if let Some(group) = group {
        // The group may have ended already.
        let _ = killpg(group, signal);
    }
    for pid in members {
        let _ = kill(*pid, signal);
    }
}

/// Whether a process of a run is alive, or that cannot be determined.
pub(crate) fn has_members(run_tag: Uuid, group: Option<Pid>) -> bool {
    members(run_tag, group, true).is_none_or(|left| !left.is_empty())
}

/// Kills a group immediately.
pub(crate) fn kill_group(group: Pid) {
    let _ = killpg(group, Signal::SIGKILL);
}

/// Kills all processes of a run immediately.
pub(crate) fn kill_run(run_tag: Uuid, group: Pid) {
    signal_all(Some(group), &members(run_tag, None, true).unwrap_or_default(), Signal::SIGKILL);
}

/// Ends all processes of a run: SIGTERM, and SIGKILL for the remaining ones after `kill_after`.
/// True if none is left. Requires that `group` belongs to the run.
pub(crate) async fn end(
    run_tag: Uuid,
    group: Option<Pid>,
    with_strays: bool,
    kill_after: Duration,
) -> bool {
    let look = || members(run_tag, group, with_strays);
    signal_all(None, &strays(&look().unwrap_or_default(), group), Signal::SIGTERM);
    signal_all(group, &[], Signal::SIGTERM);
    if wait_until_gone(&look, kill_after).await {
        return true;
    }
    signal_all(group, &look().unwrap_or_default(), Signal::SIGKILL);
    wait_until_gone(&look, KILL_TIMEOUT).await
}

/// Returns the members that a signal to the group does not reach.
fn strays(members: &[Pid], group: Option<Pid>) -> Vec<Pid> {
    let reached = |pid: &Pid| {
        group.is_some_and(|group| stat(pid.as_raw()).is_some_and(|it| it.pgrp == group.as_raw()))
    };
    members.iter().copied().filter(|pid| !reached(pid)).collect()
}

async fn wait_until_gone(list_members: &impl Fn() -> Option<Vec<Pid>>, timeout: Duration) -> bool {
    let until = Instant::now() + timeout;
    loop {
        // If the processes cannot be listed, they do not count as ended.
        if list_members().is_some_and(|left| left.is_empty()) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Ends the processes of a run that an earlier agent process left behind; true if there were any.
pub(crate) async fn end_leftovers(
    run_tag: Uuid,
    process: Option<Process>,
    kill_after: Duration,
) -> bool {
    // If the leader has ended, the group id may have been reused: then only the tag counts.
    let group = process
        .filter(|process| identify(process.pid) == Some(*process))
        .map(|process| pid_of(process.pid));
    if members(run_tag, group, true).is_none_or(|left| left.is_empty()) {
        return false;
    }
    let _ = timeout(kill_after + KILL_TIMEOUT * 2, end(run_tag, group, true, kill_after)).await;
    true
}
