//! Operations that the agent performs itself: restart the agent, restart the machine, set the log
//! level.

use std::time::{Duration, Instant};

use muster_schemas::events::RunReport;
use muster_schemas::{Event, OperationId};
use tokio::time::{sleep, timeout};

use super::journal::Entry;
use super::record::{self, Outcome, empty_report, truncate};
use crate::clock::Moment;
use crate::run::Shared;
use crate::subprocess::run_command;

/// Maximum time that the log gets to confirm the recorded events before the agent or the machine
/// restarts.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of a command that restarts the machine.
const REBOOT_COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

fn start(shared: &Shared, id: OperationId, entry: Entry) -> Option<Entry> {
    match record::journal_start(shared, id, entry) {
        Ok(entry) => {
            record::record_started_now(shared, id, &entry, None);
            Some(entry)
        }
        Err(error) => {
            tracing::warn!(%error, operation = %id, "failed to start a run; retrying");
            shared.operations.requeue(id);
            None
        }
    }
}

fn end_event(id: OperationId, entry: &Entry, outcome: Outcome, problem: Option<&str>) -> Event {
    outcome.event(RunReport {
        problem: problem.map(truncate),
        started_at: entry.begun.map(|start| start.at),
        ended_at: Some(Moment::now().wall),
        ..empty_report(id)
    })
}

/// Waits briefly until the log has the recorded events; the remaining ones stay in the outbox.
async fn wait_until_logged(shared: &Shared) {
    let newest = shared.outbox.view().last_seq;
    let taken = async {
        while shared.outbox.view().confirmed < newest {
            sleep(POLL_INTERVAL).await;
        }
    };
    let _ = timeout(CONFIRM_TIMEOUT, taken).await;
}

/// Ends the agent so that it is restarted. Success is recorded before.
pub(super) async fn restart(shared: &Shared, id: OperationId, entry: Entry) {
    let Some(entry) = start(shared, id, entry) else { return };
    let event = end_event(id, &entry, Outcome::Succeeded, None);
    record::record_end(shared, id, entry, event);
    shared.operations.stop_starting();
    wait_until_logged(shared).await;
    tracing::info!("restarting the agent, as ordered");
    shared.operations.restart.cancel();
}

/// Restarts the machine. Success is recorded after the restart, by the agent of the next boot.
pub(super) async fn reboot(shared: &Shared, id: OperationId, entry: Entry) {
    let Some(entry) = start(shared, id, entry) else { return };
    wait_until_logged(shared).await;
    tracing::warn!("restarting the device, as ordered");
    let mut problems = Vec::new();
    let mut is_under_way = false;
    for argv in &shared.operations.options.reboot {
        match run_command(argv, REBOOT_COMMAND_TIMEOUT).await {
            Ok(()) => {
                is_under_way = true;
                break;
            }
            Err(problem) => problems.push(format!("{}: {problem}", argv.join(" "))),
        }
    }
    if !is_under_way {
        let problem = format!("failed to restart the device: {}", problems.join("; "));
        let event = end_event(id, &entry, Outcome::Failed, Some(&problem));
        return record::record_end(shared, id, entry, event);
    }
    wait_for_reboot(shared, id, entry).await;
}

/// Waits for the machine to shut down; records a failure when the run's time limit has passed.
pub(super) async fn wait_for_reboot(shared: &Shared, id: OperationId, entry: Entry) {
    let limit = entry.order.as_ref().map_or(0, |order| order.timeout_ms);
    let started = entry.begun.map_or(0, |started| started.mono);
    let elapsed = Duration::from_micros(Moment::now().mono.saturating_sub(started));
    let limit = Duration::from_millis(limit).min(Duration::from_secs(u64::from(u32::MAX)));
    sleep(limit.saturating_sub(elapsed)).await;
    let problem = format!("the device was not restarted within {} s", limit.as_secs_f32());
    let event = end_event(id, &entry, Outcome::Failed, Some(&problem));
    record::record_end(shared, id, entry, event);
}

/// Sets the log level, for a number of seconds.
pub(super) fn set_level(
    shared: &Shared,
    id: OperationId,
    entry: Entry,
    level: &str,
    seconds: Option<u32>,
) {
    let Some(entry) = start(shared, id, entry) else { return };
    let event = match (shared.set_level)(level) {
        Ok(()) => {
            let until = seconds
                .and_then(|it| Instant::now().checked_add(Duration::from_secs(u64::from(it))));
            shared.operations.set_level_until(until);
            tracing::info!(level, ?seconds, "the log level was changed, as ordered");
            end_event(id, &entry, Outcome::Succeeded, None)
        }
        Err(problem) => end_event(id, &entry, Outcome::Failed, Some(&problem)),
    };
    record::record_end(shared, id, entry, event);
}

/// Restores the log level of the config when the time has passed.
pub(super) fn reset_level_if_due(shared: &Shared) {
    if shared.operations.level_until().is_some_and(|until| Instant::now() >= until) {
        shared.operations.set_level_until(None);
        shared.reset_level();
        tracing::info!("the log level was reset to the configured one");
    }
}
