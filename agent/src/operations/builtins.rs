//! Operations that the agent performs itself: restart the agent, restart the machine, set the log
//! level.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_schemas::events::RunReport;
use muster_schemas::{Event, OperationId};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, ReadyRun, StartedRun};
use super::record::{Outcome, Runs, empty_report, truncate};
use crate::clock::Moment;
use crate::log_level::LogLevel;
use crate::subprocess::run_command;

/// Maximum time that the log gets to confirm the recorded events before the agent or the machine
/// restarts.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of a command that restarts the machine.
const REBOOT_COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What the operations that the agent performs itself need.
pub(super) struct Builtins {
    pub(super) runs: Arc<Runs>,
    pub(super) log_level: Arc<LogLevel>,
    /// Canceled when the agent must restart.
    pub(super) restart: CancellationToken,
    /// Commands that restart the machine: tried in order until one succeeds.
    pub(super) reboot_commands: Vec<Vec<String>>,
}

impl Builtins {
    fn start(&self, id: OperationId, entry: Entry<ReadyRun>) -> Option<Entry<StartedRun>> {
        match self.runs.journal_start(id, entry) {
            Ok(entry) => {
                self.runs.record_started_now(id, &entry, None);
                Some(entry)
            }
            Err(error) => {
                tracing::warn!(%error, operation = %id, "failed to start a run; retrying");
                self.runs.queue.requeue(id);
                None
            }
        }
    }

    /// Waits briefly until the log has the recorded events; the remaining ones stay in the outbox.
    async fn wait_until_logged(&self) {
        let newest = self.runs.recorder.outbox().view().last_seq;
        let taken = async {
            while self.runs.recorder.outbox().view().confirmed < newest {
                sleep(POLL_INTERVAL).await;
            }
        };
        let _ = timeout(CONFIRM_TIMEOUT, taken).await;
    }

    /// Ends the agent so that it is restarted. Success is recorded before.
    pub(super) async fn restart_agent(&self, id: OperationId, entry: Entry<ReadyRun>) {
        let Some(entry) = self.start(id, entry) else { return };
        let event = end_event(id, &entry.state, Outcome::Succeeded, None);
        self.runs.record_end(id, entry, event);
        self.runs.queue.stop_starting();
        self.wait_until_logged().await;
        tracing::info!("restarting the agent, as ordered");
        self.restart.cancel();
    }

    /// Restarts the machine. Success is recorded after the restart, by the agent of the next boot.
    pub(super) async fn reboot(&self, id: OperationId, entry: Entry<ReadyRun>) {
        let Some(entry) = self.start(id, entry) else { return };
        self.wait_until_logged().await;
        tracing::warn!("restarting the device, as ordered");
        let mut problems = Vec::new();
        let mut is_under_way = false;
        for argv in &self.reboot_commands {
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
            let event = end_event(id, &entry.state, Outcome::Failed, Some(&problem));
            return self.runs.record_end(id, entry, event);
        }
        self.wait_for_reboot(id, entry).await;
    }

    /// Waits for the machine to shut down; records a failure when the run's time limit has passed.
    pub(super) async fn wait_for_reboot(&self, id: OperationId, entry: Entry<StartedRun>) {
        let StartedRun { order, record, .. } = &entry.state;
        let elapsed = Moment::now().mono.saturating_sub(record.start.mono);
        let elapsed = Duration::from_micros(elapsed);
        let limit =
            Duration::from_millis(order.timeout_ms).min(Duration::from_secs(u64::from(u32::MAX)));
        sleep(limit.saturating_sub(elapsed)).await;
        let problem = format!("the device was not restarted within {} s", limit.as_secs_f32());
        let event = end_event(id, &entry.state, Outcome::Failed, Some(&problem));
        self.runs.record_end(id, entry, event);
    }

    /// Sets the log level, for a number of seconds.
    pub(super) fn set_level(
        &self,
        id: OperationId,
        entry: Entry<ReadyRun>,
        level: &str,
        seconds: Option<u32>,
    ) {
        let Some(entry) = self.start(id, entry) else { return };
        let event = match self.log_level.set_temporarily(level) {
            Ok(()) => {
                let until = seconds
                    .and_then(|it| Instant::now().checked_add(Duration::from_secs(u64::from(it))));
                self.runs.queue.set_level_until(until);
                tracing::info!(level, ?seconds, "the log level was changed, as ordered");
                end_event(id, &entry.state, Outcome::Succeeded, None)
            }
            Err(error) => {
                let problem = error.to_string();
                end_event(id, &entry.state, Outcome::Failed, Some(&problem))
            }
        };
        self.runs.record_end(id, entry, event);
    }

    /// Restores the log level of the config when the time has passed.
    pub(super) fn reset_level_if_due(&self) {
        if self.runs.queue.level_until().is_some_and(|until| Instant::now() >= until) {
            self.runs.queue.set_level_until(None);
            self.log_level.reset();
            tracing::info!("the log level was reset to the configured one");
        }
    }
}

fn end_event(id: OperationId, run: &StartedRun, outcome: Outcome, problem: Option<&str>) -> Event {
    outcome.event(RunReport {
        problem: problem.map(truncate),
        started_at: Some(run.record.start.at),
        ended_at: Some(Moment::now().wall),
        ..empty_report(id)
    })
}
