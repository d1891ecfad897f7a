//! What is left of the runs of an agent that is gone: each gets its end, once.

use futures::future::join_all;
use muster_schemas::OperationId;
use muster_schemas::events::{Action, RunReport};

use super::group;
use super::journal::{self, Entry, Phase};
use super::record::{self, Outcome, blank};
use crate::clock::Moment;
use crate::run::Shared;

/// Looks through the journal when the agent starts. Answers what goes on: a machine that was to
/// restart, and has not yet.
pub(super) async fn recover(shared: &Shared) -> Vec<(OperationId, Entry)> {
    let operations = &shared.operations;
    let all = match journal::read_all(&shared.store) {
        Ok(all) => all,
        Err(error) => {
            tracing::error!(%error, "the runs of before cannot be read");
            return Vec::new();
        }
    };
    // Sorted by their ids, as the journal is.
    operations
        .spools
        .sweep(|id| all.binary_search_by_key(&id.0.as_u128(), |it| it.0.0.as_u128()).is_ok());
    let (mut goes_on, mut lost) = (Vec::new(), Vec::new());
    for (id, entry) in all {
        if let Some(salts) = &entry.salts {
            operations.spools.restore(id, salts);
        }
        if let Some(process) = entry.process {
            operations.watch(process.pid);
        }
        if entry.phase != Phase::Begun {
            continue;
        }
        if let Some(end) = &entry.end {
            operations.keep_end(id, *end.clone());
            continue;
        }
        match entry.order.as_ref().map(|order| &order.action) {
            Some(Action::Reboot) if is_this_boot(&entry) => {
                operations.resume(id, entry.ticket, &Action::Reboot);
                goes_on.push((id, entry));
            }
            Some(Action::Reboot | Action::RestartAgent) => {
                let report = RunReport { ended_at: now(), ..so_far(shared, id, &entry) };
                record::end(shared, id, entry, Outcome::Succeeded.event(report));
            }
            _ => lost.push((id, entry)),
        }
    }
    // An end may have been a child of this process, when the agent started over in place.
    operations.reap();
    join_all(lost.into_iter().map(|(id, entry)| give_up(shared, id, entry))).await;
    goes_on
}

fn now() -> Option<muster_schemas::Timestamp> {
    Some(Moment::now().wall)
}

fn is_this_boot(entry: &Entry) -> bool {
    entry.begun.is_some_and(|begun| begun.boot == Moment::now().boot)
}

/// What is known of a run that nobody attends any more.
fn so_far(shared: &Shared, id: OperationId, entry: &Entry) -> RunReport {
    let [stdout, stderr] =
        shared.operations.spools.get(id).map(|spool| spool.summaries()).unwrap_or_default();
    let started_at = entry.begun.map(|begun| begun.at);
    RunReport { started_at, stdout, stderr, ..blank(id) }
}

async fn give_up(shared: &Shared, id: OperationId, entry: Entry) {
    let mut problem = "the agent was gone while the run was at work".to_owned();
    if is_this_boot(&entry) {
        let patience = shared.operations.options.kill_after;
        if group::end_leftovers(id, entry.process, patience).await {
            problem.push_str("; what was left of it was ended");
        }
    } else {
        problem.push_str("; the machine was started again");
    }
    if entry.process.is_none() {
        problem.push_str("; whether its program was started is not known");
    }
    let report = RunReport { problem: Some(problem), ..so_far(shared, id, &entry) };
    record::end(shared, id, entry, Outcome::Interrupted.event(report));
}

/// The agent stops: what is at work was killed, and is recorded as interrupted. A machine that was
/// to restart is what stops it, perhaps.
pub(crate) fn interrupt(shared: &Shared) {
    for id in shared.operations.running() {
        let Ok(Some(entry)) = journal::read(&shared.store, id) else { continue };
        let is_reboot =
            entry.order.as_ref().is_some_and(|order| matches!(order.action, Action::Reboot));
        if entry.phase != Phase::Begun || is_reboot {
            continue;
        }
        let problem = "the agent was stopped while the run was at work; it was ended".to_owned();
        let report =
            RunReport { problem: Some(problem), ended_at: now(), ..so_far(shared, id, &entry) };
        record::end(shared, id, entry, Outcome::Interrupted.event(report));
    }
}
