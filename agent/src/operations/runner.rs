//! The loop that starts runs, expires waiting ones, and retries to record events that could not be
//! recorded.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_schemas::OperationId;
use muster_schemas::events::{Action, RefusalCause};
use muster_schemas::wire::RunOrder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::builtins::Builtins;
use super::diagnostics::CollectDiagnostics;
use super::entry::{Entry, ReadyRun, StartedRun};
use super::journal;
use super::options::OperationOptions;
use super::queue::RETRY_DELAY;
use super::record::{Runs, expired, rejected};
use super::upload::Uploads;
use super::{diagnostics, exec, recover};
use crate::clock::ServerClock;
use crate::policy::check_policy;

type Run<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The runner of operations.
pub(super) struct Runner {
    pub(super) runs: Arc<Runs>,
    pub(super) options: OperationOptions,
    pub(super) clock: Arc<ServerClock>,
    pub(super) max_concurrent_runs: watch::Receiver<usize>,
    pub(super) builtins: Builtins,
    pub(super) uploads: Uploads,
    pub(super) collect_diagnostics: CollectDiagnostics,
}

impl Runner {
    /// Performs operations, indefinitely.
    pub(super) async fn run(&self) {
        let runs = &*self.runs;
        let mut running: FuturesUnordered<Run<'_>> = FuturesUnordered::new();
        for (id, entry, cancel) in recover::recover(runs, self.options.kill_after).await {
            running.push(Box::pin(self.resume_run(id, entry, cancel)));
        }
        let mut hellos = self.clock.subscribe();
        let mut max_concurrent = self.max_concurrent_runs.clone();
        let mut children = signal(SignalKind::child()).ok();
        loop {
            runs.record_held_ends();
            self.expire_waiting();
            runs.queue.reap();
            let max = *max_concurrent.borrow_and_update();
            while runs.recorder.outbox().has_room()
                && let Some((id, cancel)) = runs.queue.next(max)
            {
                running.push(Box::pin(self.start_run(id, cancel)));
            }
            let again = runs.queue.needs_check().then(|| Instant::now() + RETRY_DELAY);
            let wake = [again, runs.queue.level_until()].into_iter().flatten().min();
            tokio::select! {
                Some(()) = running.next(), if !running.is_empty() => {}
                () = runs.queue.changed.notified() => {}
                _ = hellos.changed() => {}
                _ = max_concurrent.changed() => {}
                () = child_ended(&mut children) => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {
                    self.builtins.reset_level_if_due();
                }
            }
        }
    }

    /// Records runs as expired that waited too long.
    fn expire_waiting(&self) {
        let Some(now) = self.clock.confirmed_time() else { return };
        for id in self.runs.queue.waiting() {
            let Ok(Some(entry)) = self.runs.read(id) else { continue };
            if now > entry.expires_at
                && self.runs.record_with_entry(id, &entry.ended(), &expired(id)).is_ok()
            {
                self.runs.queue.close(id);
            }
        }
    }

    /// Starts a run and follows it until its end.
    async fn start_run(&self, id: OperationId, cancel: CancellationToken) {
        let queue = &self.runs.queue;
        let entry = match self.runs.read(id) {
            Ok(entry) => entry,
            Err(error) => {
                tracing::warn!(%error, operation = %id, "failed to start a run; retrying");
                return queue.requeue(id);
            }
        };
        let Some(entry) = entry.and_then(Entry::into_ready) else { return queue.close(id) };
        let order = entry.state.order().clone();
        // The owner may have changed the policy since the order was accepted.
        if let Err(denied) = check_policy(&self.options.policy, &order.action) {
            let event = rejected(id, RefusalCause::Policy, &denied.to_string());
            let entry: Entry = entry.into();
            return match self.runs.record_with_entry(id, &entry.ended(), &event) {
                Ok(_) => queue.close(id),
                Err(_) => queue.requeue(id),
            };
        }
        self.execute(id, entry, &order, &cancel).await;
    }

    /// Follows a run that an earlier agent process started.
    async fn resume_run(
        &self,
        id: OperationId,
        entry: Entry<StartedRun>,
        cancel: CancellationToken,
    ) {
        match &entry.state.order.action {
            Action::Upload(_) => self.uploads.resume(id, entry, &cancel).await,
            // `recover` ends the runs of other kinds.
            Action::Reboot
            | Action::Exec(_)
            | Action::RestartAgent
            | Action::Diagnostics
            | Action::LogLevel { .. } => self.builtins.wait_for_reboot(id, entry).await,
        }
    }

    async fn execute(
        &self,
        id: OperationId,
        entry: Entry<ReadyRun>,
        order: &RunOrder,
        cancel: &CancellationToken,
    ) {
        match &order.action {
            Action::Exec(program) => {
                exec::run(&self.runs, &self.options, id, entry, order, program, cancel).await;
            }
            Action::RestartAgent => self.builtins.restart_agent(id, entry).await,
            Action::Reboot => self.builtins.reboot(id, entry).await,
            Action::Diagnostics => {
                diagnostics::run(&self.runs, &self.collect_diagnostics, id, entry, order, cancel)
                    .await;
            }
            Action::LogLevel { level, seconds } => {
                self.builtins.set_level(id, entry, level, *seconds);
            }
            Action::Upload(upload) => self.uploads.run(id, entry, upload, cancel).await,
        }
    }
}

async fn child_ended(children: &mut Option<Signal>) {
    match children {
        Some(children) => drop(children.recv().await),
        None => std::future::pending().await,
    }
}

/// Deletes the journal's entries of runs that ended long ago.
pub(super) fn prune_journal(runs: &Runs, clock: &ServerClock) {
    let Some(now) = clock.confirmed_time() else { return };
    let is_needed = |id| runs.spools.get(id).is_some();
    match journal::prune(&runs.store, now, is_needed) {
        Ok(0) => {}
        Ok(count) => tracing::debug!(count, "removed old runs from the journal"),
        Err(error) => tracing::warn!(%error, "failed to remove old runs from the journal"),
    }
}
