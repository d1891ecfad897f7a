//! Recovers the runs of an earlier agent process: each gets exactly one end.

use std::time::Duration;

use futures::future::join_all;
use muster_schemas::events::{Action, RunReport};
use muster_schemas::{Event, OperationId};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::journal::{self, Entry, Phase};
use super::record::{Outcome, Runs, empty_report};
use crate::clock::Moment;
use crate::subprocess::group;

/// Reads the journal when the agent starts. Returns the runs that continue, with the tokens that
/// cancel them: uploads, and a machine restart that has not happened yet.
pub(super) async fn recover(
    runs: &Runs,
    kill_after: Duration,
) -> Vec<(OperationId, Entry, CancellationToken)> {
    let (queue, spools) = (&runs.queue, &runs.spools);
    let all = match journal::read_all(&runs.store) {
        Ok(all) => all,
        Err(error) => {
            tracing::error!(%error, "failed to read the previous runs");
            return Vec::new();
        }
    };
    // Sorted by id, like the journal.
    spools.sweep(|id| all.binary_search_by_key(&id.0.as_u128(), |it| it.0.0.as_u128()).is_ok());
    let (mut goes_on, mut lost) = (Vec::new(), Vec::new());
    for (id, entry) in all {
        if let Some(salts) = &entry.salts {
            spools.restore(id, salts);
            if entry.phase != Phase::Begun {
                spools.delete_archive(id);
            }
        }
        if let Some(process) = entry.process {
            queue.watch(process.pid);
        }
        match recovery_action(&entry, Moment::now().boot) {
            RecoveryAction::Nothing => {}
            RecoveryAction::RecordEnd(end) => queue.hold_end(id, *end),
            RecoveryAction::Resume => {
                let action = entry.order.as_ref().map_or(&Action::Reboot, |order| &order.action);
                let cancel = queue.resume(id, entry.ticket, action);
                goes_on.push((id, entry, cancel));
            }
            RecoveryAction::Succeed => {
                let report = RunReport { ended_at: now(), ..partial_report(runs, id, &entry) };
                runs.record_end(id, entry, Outcome::Succeeded.event(report));
            }
            RecoveryAction::Interrupt => lost.push((id, entry)),
        }
    }
    // A process may have been a child of this process id, if the agent re-executed itself.
    queue.reap();
    join_all(lost.into_iter().map(|(id, entry)| record_interrupted(runs, kill_after, id, entry)))
        .await;
    goes_on
}

/// What to do with a journal entry of an earlier agent process.
#[derive(Debug, PartialEq)]
enum RecoveryAction {
    /// Nothing: it has ended, or waits.
    Nothing,
    /// Its end is known and not recorded.
    RecordEnd(Box<Event>),
    /// A machine restart that has not happened yet; or an upload, which only reads.
    Resume,
    /// It succeeded by ending the agent.
    Succeed,
    /// No agent process observed its end.
    Interrupt,
}

fn recovery_action(entry: &Entry, boot: Uuid) -> RecoveryAction {
    if entry.phase != Phase::Begun {
        return RecoveryAction::Nothing;
    }
    if let Some(end) = &entry.end {
        return RecoveryAction::RecordEnd(end.clone());
    }
    let is_this_boot = entry.begun.is_some_and(|start| start.boot == boot);
    match entry.order.as_ref().map(|order| &order.action) {
        Some(Action::Upload(_)) => RecoveryAction::Resume,
        Some(Action::Reboot) if is_this_boot => RecoveryAction::Resume,
        Some(Action::Reboot | Action::RestartAgent) => RecoveryAction::Succeed,
        _ => RecoveryAction::Interrupt,
    }
}

fn now() -> Option<muster_schemas::Timestamp> {
    Some(Moment::now().wall)
}

/// Returns the available report of a run that no process follows.
fn partial_report(runs: &Runs, id: OperationId, entry: &Entry) -> RunReport {
    let [stdout, stderr] = runs.spools.get(id).map(|spool| spool.summaries()).unwrap_or_default();
    let started_at = entry.begun.map(|start| start.at);
    RunReport { started_at, stdout, stderr, ..empty_report(id) }
}

/// Problem of a run that was running when the agent process was killed; details follow.
pub const INTERRUPTED: &str = "the agent process ended during the run";
/// Added when leftover processes of the run were ended.
pub const LEFTOVERS_ENDED: &str = "its remaining processes were terminated";

async fn record_interrupted(runs: &Runs, kill_after: Duration, id: OperationId, entry: Entry) {
    // Read it now: the output is deleted as soon as the server has it.
    let report = partial_report(runs, id, &entry);
    let mut problem = INTERRUPTED.to_owned();
    if let Some(start) = entry.begun.filter(|start| start.boot == Moment::now().boot) {
        if group::end_leftovers(start.mark, entry.process, kill_after).await {
            problem.push_str(&format!("; {LEFTOVERS_ENDED}"));
        }
    } else {
        problem.push_str("; the device was restarted");
    }
    if entry.process.is_none() {
        problem.push_str("; it is unknown whether its program was started");
    }
    let report = RunReport { problem: Some(problem), ..report };
    runs.record_end(id, entry, Outcome::Interrupted.event(report));
}

/// Problem of a run that was terminated because the agent stopped.
pub const STOPPED: &str = "the run was terminated because the agent was stopped";

/// Records interrupted runs when the agent stops and has killed them. A pending machine restart is
/// excluded, because it may be the reason for the stop, and so are uploads, which the next agent
/// process continues.
pub(super) fn interrupt(runs: &Runs) {
    // Runs whose start was written with their acceptance and that still wait are left to the next
    // agent process.
    for id in runs.queue.waiting() {
        let Ok(Some(entry)) = runs.read(id) else { continue };
        if entry.phase == Phase::Begun {
            let entry = Entry { phase: Phase::Accepted, begun: None, salts: None, ..entry };
            if let Err(error) = runs.put(id, &entry) {
                tracing::warn!(
                    %error,
                    operation = %id,
                    "failed to reset a waiting run; it will not start"
                );
            }
        }
    }
    for id in runs.queue.running() {
        let Ok(Some(entry)) = runs.read(id) else { continue };
        let goes_on = entry
            .order
            .as_ref()
            .is_some_and(|order| matches!(order.action, Action::Reboot | Action::Upload(_)));
        if entry.phase != Phase::Begun || goes_on {
            continue;
        }
        let problem = STOPPED.to_owned();
        let report = RunReport {
            problem: Some(problem),
            ended_at: now(),
            ..partial_report(runs, id, &entry)
        };
        runs.record_end(id, entry, Outcome::Interrupted.event(report));
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::events::{RunExpired, Upload};
    use muster_schemas::wire::RunOrder;
    use muster_schemas::{DeviceId, ProjectId, Timestamp};

    use super::super::journal::RunStart;
    use super::*;

    #[test]
    fn the_recovery_of_a_run_depends_on_its_phase_and_the_boot() {
        let (boot, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let id = OperationId(Uuid::from_u128(3));
        let upload = || {
            Action::Upload(Upload {
                path: "/x".into(),
                remove_source: false,
                replace: false,
                keep_seconds: None,
                max_bytes: None,
                bytes_per_second: None,
            })
        };
        let entry = |phase, action: Action| Entry {
            order: Some(Box::new(RunOrder {
                project: ProjectId::default_project(),
                device: DeviceId(Uuid::from_u128(4)),
                epoch: 1,
                operation: id,
                issued_at: Timestamp(1),
                expires_at: Timestamp(2),
                timeout_ms: 1,
                actor: String::new(),
                action,
                private: None,
            })),
            begun: Some(RunStart { boot, mono: 1, at: Timestamp(1), mark: Uuid::nil() }),
            ..Entry::new(1, phase, Timestamp(2))
        };
        for (phase, action, now, expected) in [
            (Phase::Accepted, Action::Diagnostics, boot, RecoveryAction::Nothing),
            (Phase::Ended, Action::Reboot, other, RecoveryAction::Nothing),
            (Phase::Begun, Action::Diagnostics, boot, RecoveryAction::Interrupt),
            (Phase::Begun, Action::Diagnostics, other, RecoveryAction::Interrupt),
            (Phase::Begun, Action::Reboot, boot, RecoveryAction::Resume),
            (Phase::Begun, Action::Reboot, other, RecoveryAction::Succeed),
            (Phase::Begun, Action::RestartAgent, boot, RecoveryAction::Succeed),
            (Phase::Begun, upload(), boot, RecoveryAction::Resume),
            (Phase::Begun, upload(), other, RecoveryAction::Resume),
        ] {
            assert_eq!(recovery_action(&entry(phase, action), now), expected);
        }
        let end: Event = RunExpired { operation: id }.into();
        let kept =
            Entry { end: Some(Box::new(end.clone())), ..entry(Phase::Begun, Action::Diagnostics) };
        assert_eq!(recovery_action(&kept, boot), RecoveryAction::RecordEnd(Box::new(end)));
    }
}
