//! Recovers the runs of an earlier agent process: each gets exactly one end.

use std::time::Duration;

use futures::future::join_all;
use muster_schemas::OperationId;
use muster_schemas::events::RunReport;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::entry::{Entry, StartRecord, StartedRun, State};
use super::journal;
use super::kind::{AfterRestart, OperationKind};
use super::record::{Outcome, Runs, empty_report};
use crate::clock::Moment;
use crate::subprocess::group;

/// Reads the journal when the agent starts. Returns the runs that continue, with the tokens that
/// cancel them: uploads, and a machine restart that has not happened yet.
pub(super) async fn recover(
    runs: &Runs,
    kill_after: Duration,
) -> Vec<(OperationId, Entry<StartedRun>, CancellationToken)> {
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
        if let Some(record) = entry.record() {
            spools.restore(id, &record.salts);
            if matches!(entry.state, State::Ended(_)) {
                spools.delete_archive(id);
            }
            if let Some(process) = record.process {
                queue.watch(process.pid);
            }
        }
        let Entry { ticket, expires_at, state } = entry;
        let run = match state {
            State::Barred | State::Accepted(_) | State::Ended(_) => continue,
            State::EndPending { end, .. } => {
                queue.hold_end(id, *end);
                continue;
            }
            State::Started(run) => *run,
        };
        let recovery = Recovery::of(&run, Moment::now().boot);
        let entry = Entry { ticket, expires_at, state: run };
        match recovery {
            Recovery::Resume => {
                let cancel = queue.resume(id, ticket, &entry.state.order.action);
                goes_on.push((id, entry, cancel));
            }
            Recovery::Succeed => {
                let report = partial_report(runs, id, &entry.state);
                let report = RunReport { ended_at: now(), ..report };
                runs.record_end(id, entry, Outcome::Succeeded.event(report));
            }
            Recovery::Interrupt => lost.push((id, entry)),
        }
    }
    // A process may have been a child of this process id, if the agent re-executed itself.
    queue.reap();
    join_all(lost.into_iter().map(|(id, entry)| record_interrupted(runs, kill_after, id, entry)))
        .await;
    goes_on
}

/// What to do with a run that an earlier agent process started.
#[derive(Debug, PartialEq, Eq)]
enum Recovery {
    /// A machine restart that has not happened yet; or an upload, which only reads.
    Resume,
    /// It succeeded by ending the agent.
    Succeed,
    /// No agent process observed its end.
    Interrupt,
}

impl Recovery {
    fn of(run: &StartedRun, boot: Uuid) -> Self {
        match OperationKind::of(&run.order.action).after_restart {
            AfterRestart::Continues => Self::Resume,
            AfterRestart::SucceededIfRebooted if run.record.start.boot == boot => Self::Resume,
            AfterRestart::SucceededIfRebooted | AfterRestart::Succeeded => Self::Succeed,
            AfterRestart::Interrupted => Self::Interrupt,
        }
    }
}

fn now() -> Option<muster_schemas::Timestamp> {
    Some(Moment::now().wall)
}

/// Returns the available report of a run that no process follows.
fn partial_report(runs: &Runs, id: OperationId, run: &StartedRun) -> RunReport {
    let [stdout, stderr] = runs.spools.get(id).map(|spool| spool.summaries()).unwrap_or_default();
    let started_at = Some(run.record.start.at);
    RunReport { started_at, stdout, stderr, ..empty_report(id) }
}

/// Problem of a run that was running when the agent process was killed; details follow.
pub const INTERRUPTED: &str = "the agent process ended during the run";
/// Added when leftover processes of the run were ended.
pub const LEFTOVERS_ENDED: &str = "its remaining processes were terminated";

async fn record_interrupted(
    runs: &Runs,
    kill_after: Duration,
    id: OperationId,
    entry: Entry<StartedRun>,
) {
    // Read it now: the output is deleted as soon as the server has it.
    let report = partial_report(runs, id, &entry.state);
    let StartRecord { start, process, .. } = entry.state.record;
    let mut problem = INTERRUPTED.to_owned();
    if start.boot == Moment::now().boot {
        if group::end_leftovers(start.run_tag, process, kill_after).await {
            problem.push_str(&format!("; {LEFTOVERS_ENDED}"));
        }
    } else {
        problem.push_str("; the device was restarted");
    }
    if process.is_none() {
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
        let Entry { ticket, expires_at, state } = entry;
        if let State::Started(run) = state {
            let entry = Entry { ticket, expires_at, state: State::Accepted(run.order) };
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
        let State::Started(run) = &entry.state else { continue };
        match OperationKind::of(&run.order.action).after_restart {
            AfterRestart::Continues | AfterRestart::SucceededIfRebooted => continue,
            // The runner ends a restart of the agent before the agent stops; one that is still
            // open did not happen.
            AfterRestart::Succeeded | AfterRestart::Interrupted => {}
        }
        let problem = STOPPED.to_owned();
        let report =
            RunReport { problem: Some(problem), ended_at: now(), ..partial_report(runs, id, run) };
        runs.record_end(id, entry, Outcome::Interrupted.event(report));
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::events::{Action, Upload};

    use super::super::entry::tests::sample_order;
    use super::*;

    #[test]
    fn the_recovery_of_a_started_run_depends_on_its_action_and_the_boot() {
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
        let started = |action| StartedRun::now(sample_order(action));
        for (action, is_same_boot, expected) in [
            (Action::Diagnostics, true, Recovery::Interrupt),
            (Action::Diagnostics, false, Recovery::Interrupt),
            (Action::Reboot, true, Recovery::Resume),
            (Action::Reboot, false, Recovery::Succeed),
            (Action::RestartAgent, true, Recovery::Succeed),
            (upload(), true, Recovery::Resume),
            (upload(), false, Recovery::Resume),
        ] {
            let run = started(action);
            let boot = run.record.start.boot;
            let now = if is_same_boot { boot } else { Uuid::from_u128(!boot.as_u128()) };
            assert_eq!(Recovery::of(&run, now), expected);
        }
    }
}
