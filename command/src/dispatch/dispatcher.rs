//! The dispatcher: applies the decisions of `rules`, in one process at a time.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use muster_blobs::key;
use muster_eventlog::projection::Progress;
use muster_eventlog::{Append, AppendError, Batch, Expected, NewEvent};
use muster_schemas::events::ClosedState;
use muster_schemas::{DeviceId, Epoch, Event, OperationId, ProjectId, StreamName, Timestamp};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::authentic::AuthenticOperations;
use super::orders::Orders;
use super::private::{PrivateParts, SignedOrder};
use super::rules::{self, Step};
use super::work_queue::{OpenOperation, OpenRun, RunSelection, WorkQueue};
use crate::clock::now;
use crate::domain::Decider;
use crate::domain::operation::{Operation, OperationCommand};
use crate::domain::run::{Run, RunCommand};
use crate::error::CommandError;
use crate::executor::Executor;
use crate::request::Request;

/// Actor of the events that are decided here.
const ACTOR: &str = "role:command";
/// Name of the lease that allows a process to dispatch.
const LEASE: &str = "dispatch";
/// Duration of the lease without renewal: the longest delay after a crash.
const LEASE_TTL: Duration = Duration::from_secs(6);
/// Interval at which the lease is renewed and the work queue is checked even without a change.
const LEASE_RENEW_INTERVAL: Duration = Duration::from_secs(1);
/// Delay after which an unanswered order or cancel is sent again.
const RESEND_DELAY: Duration = Duration::from_secs(5);
/// Interval between searches for private input of ended operations: input that could not be erased
/// when they ended, because this process was not running or the store was unavailable.
const SWEEP_INTERVAL: Duration = Duration::from_secs(900);
/// Age up to which an operation may not be in the work queue yet, in milliseconds.
const MIN_SWEEP_AGE_MS: u64 = 3_600_000;
/// Maximum number of runs that are processed together.
const MAX_RUNS_PER_BATCH: u32 = 500;

/// Dispatches while this process holds the lease, until `stop`. `progress` is that of the work
/// queue's projection.
pub(super) async fn run(
    executor: Executor,
    orders: Orders,
    progress: Progress,
    stop: CancellationToken,
) {
    let holder = Uuid::new_v4();
    let mut dispatcher = Dispatcher {
        queue: WorkQueue::new(executor.log.clone()),
        executor,
        orders,
        sent: SentMessages::default(),
        private: PrivateParts::default(),
        open: HashMap::new(),
        authentic_operations: AuthenticOperations::default(),
        swept_at: None,
        sweep_task: None,
    };
    let mut has_lease = false;
    let mut renewed: Option<Instant> = None;
    let mut changed = progress.subscribe();
    while !stop.is_cancelled() {
        if renewed.is_none_or(|at| at.elapsed() >= LEASE_RENEW_INTERVAL) {
            has_lease = dispatcher.acquire_or_renew_lease(holder, has_lease).await;
            renewed = Some(Instant::now());
        }
        let started_at = Instant::now();
        if has_lease && let Err(error) = dispatcher.round().await {
            tracing::warn!(%error, "failed to dispatch operations; trying again");
        }
        // Limits the load of a long queue to half of the time.
        let breath = started_at
            .elapsed()
            .saturating_sub(Duration::from_millis(10))
            .min(LEASE_RENEW_INTERVAL / 2);
        tokio::time::sleep(breath).await;
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LEASE_RENEW_INTERVAL) => {}
            read = dispatcher.private.read() => {
                let Dispatcher { private, orders, .. } = &mut dispatcher;
                private.handle_read(orders, read);
            }
            result = changed.changed(), if has_lease => {
                // The queue's projection has ended, and this process ends, too.
                if result.is_err() {
                    tokio::time::sleep(LEASE_RENEW_INTERVAL).await;
                }
            }
        }
    }
    if let Err(error) = dispatcher.executor.log.release_lease(LEASE, holder).await {
        tracing::debug!(%error, "failed to release the lease on dispatching");
    }
}

struct Dispatcher {
    executor: Executor,
    orders: Orders,
    queue: WorkQueue,
    sent: SentMessages,
    private: PrivateParts,
    /// Operations that were open in the last round; true if one has private input.
    open: HashMap<(ProjectId, OperationId), bool>,
    authentic_operations: AuthenticOperations,
    /// Time of the last search for private input.
    swept_at: Option<Instant>,
    sweep_task: Option<JoinHandle<()>>,
}

/// A message to a device about a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Order,
    Cancel,
}

/// The last message of each run, and its time: the same message is repeated only after a delay. A
/// cancel does not wait because an order has just been sent.
#[derive(Debug, Default)]
struct SentMessages(HashMap<(OperationId, DeviceId), (Message, Instant)>);

impl SentMessages {
    fn remove_older_than(&mut self, age: Duration) {
        self.0.retain(|_, (_, at)| at.elapsed() < age);
    }

    /// Whether a message is due now; if so, records it as sent.
    fn is_due(&mut self, operation: OperationId, device: DeviceId, message: Message) -> bool {
        let run = (operation, device);
        let is_due = self.0.get(&run).is_none_or(|(last, _)| *last != message);
        if is_due {
            self.0.insert(run, (message, Instant::now()));
        }
        is_due
    }
}

/// An append of one run, and the order to send after it.
struct PlannedAppend {
    append: Append,
    order: Option<(DeviceId, Vec<u8>)>,
}

impl Dispatcher {
    async fn acquire_or_renew_lease(&self, holder: Uuid, has_lease: bool) -> bool {
        let log = &self.executor.log;
        let held = if has_lease {
            log.renew_leases(holder, &[LEASE.to_owned()], LEASE_TTL)
                .await
                .map(|held| !held.is_empty())
        } else {
            log.acquire_lease(LEASE, holder, LEASE_TTL).await.map(|lease| lease.is_some())
        };
        held.unwrap_or_else(|error| {
            tracing::debug!(%error, "failed to acquire the lease on dispatching");
            false
        })
    }

    async fn round(&mut self) -> Result<(), CommandError> {
        let operations = self.queue.operations().await?;
        let open: HashMap<(ProjectId, OperationId), bool> = operations
            .iter()
            .map(|(project, it)| ((project.clone(), it.id), it.requested.private.is_some()))
            .collect();
        let before = std::mem::replace(&mut self.open, open);
        for ((project, operation), has_private) in before {
            if has_private && !self.open.contains_key(&(project.clone(), operation)) {
                let orders = self.orders.clone();
                // Concurrent with the rounds, because the store may be slow. A failure is left to
                // the sweep.
                tokio::spawn(async move { orders.erase_private(&project, operation).await });
            }
        }
        let open: HashSet<OperationId> =
            self.open.keys().map(|(_, operation)| *operation).collect();
        self.private.start_round(|id| open.contains(&id));
        self.authentic_operations.retain_open(|id| open.contains(&id));
        self.sent.remove_older_than(RESEND_DELAY);
        let is_due = self.swept_at.is_none_or(|at| at.elapsed() >= SWEEP_INTERVAL);
        if is_due && self.sweep_task.as_ref().is_none_or(JoinHandle::is_finished) {
            self.swept_at = Some(Instant::now());
            let open = self.open.keys().cloned().collect();
            self.sweep_task = Some(tokio::spawn(sweep(self.orders.clone(), open)));
        }
        // Aborted operations first: their cancels do not wait for orders of others.
        let (aborted, others): (Vec<_>, Vec<_>) =
            operations.into_iter().partition(|(_, operation)| operation.is_aborted);
        for (project, operation) in aborted.into_iter().chain(others) {
            if let Err(error) = self.dispatch_operation(&project, &operation).await {
                tracing::warn!(
                    %project, operation = %operation.id, %error,
                    "failed to dispatch an operation; trying again"
                );
            }
        }
        Ok(())
    }

    async fn dispatch_operation(
        &mut self,
        project: &ProjectId,
        operation: &OpenOperation,
    ) -> Result<(), CommandError> {
        let now = now();
        if let Some(cause) = rules::abort(operation) {
            let request = Request::unconditional(project.clone(), ACTOR.to_owned(), Uuid::new_v4());
            let stream = StreamName::Operation(operation.id);
            let command = OperationCommand::Abort(cause);
            return self.executor.execute::<Operation>(&request, &stream, command).await.map(drop);
        }
        let mut planned = self.ends(project, operation, now).await?;
        planned.extend(self.start_runs(project, operation, now).await?);
        let mut due = Vec::new();
        let before = rules::overdue_before(operation, now);
        for run in self.runs(project, operation, RunSelection::Sent { before }).await? {
            match rules::next_step(operation, &run, now) {
                Some(Step::Dispatch) => {
                    let one = std::slice::from_ref(&run);
                    if self.authentic(project, operation, one).await?.contains(&run.device) {
                        planned.extend(self.dispatch(project, operation, &run)?);
                    }
                }
                Some(Step::Close(state, reason)) => planned.extend(close(&run, state, reason)),
                Some(Step::SendCancel)
                    if self.sent.is_due(run.operation, run.device, Message::Cancel) =>
                {
                    self.private.cancel(run.operation, run.device);
                    self.orders.send_cancel(project, &run).await?;
                }
                None | Some(Step::SendCancel) => {}
                Some(Step::SendOrder) => {
                    if let Some(order) = run.order.clone()
                        && self.sent.is_due(run.operation, run.device, Message::Order)
                    {
                        due.push((run.device, order));
                    }
                }
            }
        }
        // Decisions are appended before anything is sent.
        self.append(project, operation, planned).await?;
        for (device, order) in due {
            self.send(project, operation, device, order).await;
        }
        Ok(())
    }

    /// Plans the end of runs: of an aborted operation, on removed devices, and of those that have
    /// waited for too long.
    async fn ends(
        &self,
        project: &ProjectId,
        operation: &OpenOperation,
        now: Timestamp,
    ) -> Result<Vec<PlannedAppend>, CommandError> {
        let mut planned = Vec::new();
        if operation.is_aborted {
            for run in self.runs(project, operation, RunSelection::NotCanceled).await? {
                planned.extend(plan(&run, RunCommand::Cancel));
            }
        }
        for run in self.runs(project, operation, RunSelection::DeviceRemoved).await? {
            planned.extend(close(&run, ClosedState::Unknown, DEVICE_REMOVED));
        }
        if rules::is_expired(operation, now) {
            for run in self.runs(project, operation, RunSelection::Waiting).await? {
                planned.extend(close(&run, ClosedState::Expired, NOT_ONLINE_IN_TIME));
            }
        }
        Ok(planned)
    }

    /// Returns the appends that start waiting runs, as many as there are free slots.
    async fn start_runs(
        &mut self,
        project: &ProjectId,
        operation: &OpenOperation,
        now: Timestamp,
    ) -> Result<Vec<PlannedAppend>, CommandError> {
        let slots = rules::free_slots(operation, operation.active, now).min(MAX_RUNS_PER_BATCH);
        if slots == 0 {
            return Ok(Vec::new());
        }
        // The number of active runs may have changed since the operations were loaded.
        let (active, ready) = self.queue.ready_runs(project, operation.id, slots).await?;
        let runs: Vec<OpenRun> =
            rules::runs_to_start(operation, active, &ready, now).cloned().collect();
        let authentic = self.authentic(project, operation, &runs).await?;
        let mut planned = Vec::new();
        for run in runs.iter().filter(|run| authentic.contains(&run.device)) {
            planned.extend(self.dispatch(project, operation, run)?);
        }
        Ok(planned)
    }

    async fn runs(
        &self,
        project: &ProjectId,
        operation: &OpenOperation,
        selection: RunSelection,
    ) -> Result<Vec<OpenRun>, CommandError> {
        Ok(self.queue.runs(project, operation.id, selection, MAX_RUNS_PER_BATCH).await?)
    }

    /// Returns the devices of those of these runs whose request is in the log.
    async fn authentic(
        &mut self,
        project: &ProjectId,
        operation: &OpenOperation,
        runs: &[OpenRun],
    ) -> Result<HashSet<DeviceId>, CommandError> {
        self.authentic_operations.devices(&self.executor.log, project, operation, runs).await
    }

    fn dispatch(
        &self,
        project: &ProjectId,
        operation: &OpenOperation,
        run: &OpenRun,
    ) -> Result<Option<PlannedAppend>, CommandError> {
        let order = self.orders.seal_order(project, operation, run.device, run.device_epoch)?;
        let command = RunCommand::Dispatch { epoch: run.device_epoch, order: order.clone() };
        let planned = plan(run, command);
        Ok(planned.map(|planned| PlannedAppend { order: Some((run.device, order)), ..planned }))
    }

    /// Sends an order. An order that cannot be sent now is repeated, like a lost one.
    async fn send(
        &mut self,
        project: &ProjectId,
        operation: &OpenOperation,
        device: DeviceId,
        order: Vec<u8>,
    ) {
        let sealed = SignedOrder { project: project.clone(), device, order };
        if operation.requested.private.is_none() {
            return self.private.send_plain(&self.orders, operation.id, sealed).await;
        }
        self.private.send(&self.orders, operation.id, sealed).await;
    }

    /// Appends the planned events, each run separately, and sends the orders whose append
    /// succeeded.
    async fn append(
        &mut self,
        project: &ProjectId,
        operation: &OpenOperation,
        planned: Vec<PlannedAppend>,
    ) -> Result<(), CommandError> {
        if planned.is_empty() {
            return Ok(());
        }
        let (appends, sends): (Vec<Append>, Vec<_>) =
            planned.into_iter().map(|planned| (planned.append, planned.order)).unzip();
        let results =
            self.executor.log.append_batch(project, Batch { appends, offset: None }).await?;
        for (result, send) in results.into_iter().zip(sends) {
            match (result, send) {
                (Ok(_), Some((device, order))) => {
                    self.sent.is_due(operation.id, device, Message::Order);
                    self.send(project, operation, device, order).await;
                }
                // The queue is behind the log: the next round decides again.
                (Ok(_), None) | (Err(AppendError::Conflict { .. }), _) => {}
                (Err(error), _) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Erases private input of operations that are not open.
async fn sweep(orders: Orders, open: HashSet<(ProjectId, OperationId)>) {
    let swept = async {
        let now = now().micros().unsigned_abs() / 1000;
        for project in orders.log.projects().await? {
            for name in orders.blobs.folders(&key::operations(&project)).await? {
                let Ok(operation) = name.parse::<OperationId>() else { continue };
                let is_young = requested_at(operation).is_none_or(|at| now < at + MIN_SWEEP_AGE_MS);
                if !is_young && !open.contains(&(project.clone(), operation)) {
                    orders.erase_private(&project, operation).await;
                }
            }
        }
        Ok::<_, CommandError>(())
    };
    if let Err(error) = swept.await {
        tracing::warn!(%error, "failed to erase the private input of ended operations");
    }
}

/// Returns when an operation was requested, in milliseconds since 1970, from its id.
fn requested_at(operation: OperationId) -> Option<u64> {
    let (seconds, nanos) = operation.0.get_timestamp()?.to_unix();
    Some(seconds * 1000 + u64::from(nanos / 1_000_000))
}

const DEVICE_REMOVED: &str = "the device was revoked or deleted";
const NOT_ONLINE_IN_TIME: &str = "its device was not online in time";

fn close(run: &OpenRun, state: ClosedState, reason: &str) -> Option<PlannedAppend> {
    plan(run, RunCommand::Close { state, reason: reason.to_owned() })
}

/// Returns the append that a decision leads to; `None` when nothing changes.
fn plan(run: &OpenRun, command: RunCommand) -> Option<PlannedAppend> {
    let state = Run {
        state: Some(run.state),
        dispatched_epoch: (run.epoch > Epoch::ZERO).then_some(run.epoch),
        is_canceled: run.is_canceled,
        ..Run::default()
    };
    let events: Vec<Event> = state.decide(command).ok()?;
    if events.is_empty() {
        return None;
    }
    let at = now();
    let events = events.iter().map(|event| NewEvent::server(event, at)).collect();
    let stream = StreamName::Run(run.operation, run.device);
    let append = Append { correlation: Some(run.operation.0), ..Append::by_actor(ACTOR) };
    let append = append.stream(stream, Expected::Version(run.version), events);
    Some(PlannedAppend { append, order: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_does_not_wait_for_the_order_and_neither_is_repeated_immediately() {
        let mut sent = SentMessages::default();
        let (operation, device) = (OperationId(Uuid::from_u128(1)), DeviceId(Uuid::from_u128(2)));
        assert!(sent.is_due(operation, device, Message::Order));
        assert!(!sent.is_due(operation, device, Message::Order));
        assert!(sent.is_due(operation, device, Message::Cancel));
        assert!(!sent.is_due(operation, device, Message::Cancel));
        sent.remove_older_than(Duration::ZERO);
        assert!(sent.is_due(operation, device, Message::Cancel));
    }
}
