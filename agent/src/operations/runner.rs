//! The loop that starts runs, expires waiting ones, and retries to record events that could not be
//! recorded.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_schemas::OperationId;
use muster_schemas::events::{Action, RefusalCause};
use muster_schemas::wire::RunOrder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::journal::{self, Entry, Phase};
use super::queue::RETRY_DELAY;
use super::record::{expired, record_held_ends, record_with_entry, rejected};
use super::{builtins, diagnostics, exec, recover, upload};
use crate::policy::check_policy;
use crate::run::Shared;

type Run<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Performs operations, indefinitely.
pub(crate) async fn run_operations(shared: &Shared) {
    let operations = &shared.operations;
    let mut running: FuturesUnordered<Run<'_>> = FuturesUnordered::new();
    for (id, entry, cancel) in recover::recover(shared).await {
        running.push(Box::pin(resume_run(shared, id, entry, cancel)));
    }
    let mut settings = shared.settings.subscribe();
    let mut children = signal(SignalKind::child()).ok();
    loop {
        record_held_ends(shared);
        expire_waiting(shared);
        operations.reap();
        let at_once = settings.borrow_and_update().max_concurrent_runs;
        while shared.outbox.has_room()
            && let Some((id, cancel)) = operations.next(at_once)
        {
            running.push(Box::pin(start_run(shared, id, cancel)));
        }
        let again = operations.needs_check().then(|| Instant::now() + RETRY_DELAY);
        let wake = [again, operations.level_until()].into_iter().flatten().min();
        tokio::select! {
            Some(()) = running.next(), if !running.is_empty() => {}
            () = operations.changed.notified() => {}
            _ = settings.changed() => {}
            () = child_ended(&mut children) => {}
            () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {
                builtins::reset_level_if_due(shared);
            }
        }
    }
}

async fn child_ended(children: &mut Option<Signal>) {
    match children {
        Some(children) => drop(children.recv().await),
        None => std::future::pending().await,
    }
}

/// Records runs as expired that waited too long.
fn expire_waiting(shared: &Shared) {
    let Some(now) = shared.operations.server_time() else { return };
    for id in shared.operations.waiting() {
        let Ok(Some(entry)) = journal::read(&shared.store, id) else { continue };
        if now > entry.expires_at
            && record_with_entry(shared, id, &entry.ended(), &expired(id)).is_ok()
        {
            shared.operations.close(id);
        }
    }
}

/// Starts a run and follows it until its end.
async fn start_run(shared: &Shared, id: OperationId, cancel: CancellationToken) {
    let operations = &shared.operations;
    let entry = match journal::read(&shared.store, id) {
        Ok(Some(entry)) if matches!(entry.phase, Phase::Accepted | Phase::Begun) => entry,
        Ok(_) => return operations.close(id),
        Err(error) => {
            tracing::warn!(%error, operation = %id, "failed to start a run; retrying");
            return operations.requeue(id);
        }
    };
    let Some(order) = entry.order.clone() else { return operations.close(id) };
    // The owner may have changed the policy since the order was accepted.
    if let Err(reason) = check_policy(&operations.options.policy, &order.action) {
        let event = rejected(id, RefusalCause::Policy, &reason);
        return match record_with_entry(shared, id, &entry.ended(), &event) {
            Ok(_) => operations.close(id),
            Err(_) => operations.requeue(id),
        };
    }
    execute(shared, id, entry, &order, &cancel).await;
}

/// Follows a run that an earlier agent process started.
async fn resume_run(shared: &Shared, id: OperationId, entry: Entry, cancel: CancellationToken) {
    match entry.order.as_ref().map(|order| &order.action) {
        Some(Action::Upload(_)) => upload::resume(shared, id, entry, &cancel).await,
        _ => builtins::wait_for_reboot(shared, id, entry).await,
    }
}

async fn execute(
    shared: &Shared,
    id: OperationId,
    entry: Entry,
    order: &RunOrder,
    cancel: &CancellationToken,
) {
    match &order.action {
        Action::Exec(program) => exec::run(shared, id, entry, order, program, cancel).await,
        Action::RestartAgent => builtins::restart(shared, id, entry).await,
        Action::Reboot => builtins::reboot(shared, id, entry).await,
        Action::Diagnostics => diagnostics::run(shared, id, entry, order, cancel).await,
        Action::LogLevel { level, seconds } => {
            builtins::set_level(shared, id, entry, level, *seconds);
        }
        Action::Upload(_) => upload::run(shared, id, entry, cancel).await,
    }
}

/// Deletes the journal's entries of runs that ended long ago.
pub(crate) fn prune_journal(shared: &Shared) {
    let Some(now) = shared.operations.server_time() else { return };
    let is_needed = |id| shared.operations.spools.get(id).is_some();
    match journal::prune(&shared.store, now, is_needed) {
        Ok(0) => {}
        Ok(count) => tracing::debug!(count, "removed old runs from the journal"),
        Err(error) => tracing::warn!(%error, "failed to remove old runs from the journal"),
    }
}
