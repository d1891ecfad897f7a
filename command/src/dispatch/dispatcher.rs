//! Carries out what the rules say, in one process at a time.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use muster_api::blobs::key;
use muster_eventlog::projection::Progress;
use muster_eventlog::{Append, AppendError, Batch, Expected, NewEvent};
use muster_schemas::{DeviceId, Event, OperationId, ProjectId, StreamName};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::authentic::Authentic;
use super::list::{List, OpenOperation, OpenRun, Which};
use super::private::{PrivateParts, Sealed};
use super::rules::{self, Step};
use crate::domain::Decider;
use crate::domain::operation::OperationCommand;
use crate::domain::run::{Run, RunCommand};
use crate::service::{Service, ServiceError, now};

/// Who appends what is decided here.
const ACTOR: &str = "role:command";
/// The right to dispatch.
const LEASE: &str = "dispatch";
/// How long the lease lasts without being renewed: the longest wait after a crash.
const LIFE: Duration = Duration::from_secs(6);
/// How often it is renewed, and the list looked at whatever happens.
const BEAT: Duration = Duration::from_secs(1);
/// An order, or a cancel, that was not answered is sent again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// What is private of operations that are over is looked for this often: what could not be erased
/// when they ended, because this process was not there or the store was away.
const SWEEP: Duration = Duration::from_secs(900);
/// An operation this young may not be on the list yet, in milliseconds.
const YOUNG: u64 = 3_600_000;
/// Runs that are looked at at once.
const STRETCH: u32 = 500;

/// Dispatches while this process has the right to, until `stop`. `progress` is that of the list.
pub(super) async fn run(service: Service, progress: Progress, stop: CancellationToken) {
    let holder = Uuid::new_v4();
    let mut dispatcher = Dispatcher {
        list: List::new(service.log.clone()),
        service,
        sent: Sent::default(),
        private: PrivateParts::default(),
        open: HashMap::new(),
        authentic: Authentic::default(),
        swept: None,
        sweeping: None,
    };
    let mut has_lease = false;
    let mut renewed: Option<Instant> = None;
    let mut changed = progress.subscribe();
    while !stop.is_cancelled() {
        if renewed.is_none_or(|at| at.elapsed() >= BEAT) {
            has_lease = dispatcher.hold_lease(holder, has_lease).await;
            renewed = Some(Instant::now());
        }
        let began = Instant::now();
        if has_lease && let Err(error) = dispatcher.round().await {
            tracing::warn!(%error, "operations are not dispatched; trying again");
        }
        // A long list is not looked at without end.
        let breath = began.elapsed().saturating_sub(Duration::from_millis(10)).min(BEAT / 2);
        tokio::time::sleep(breath).await;
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(BEAT) => {}
            read = dispatcher.private.read() => {
                let Dispatcher { private, service, .. } = &mut dispatcher;
                private.take(service, read);
            }
            told = changed.changed(), if has_lease => {
                // The list's projection has ended: so does this process.
                if told.is_err() {
                    tokio::time::sleep(BEAT).await;
                }
            }
        }
    }
    if let Err(error) = dispatcher.service.log.release_lease(LEASE, holder).await {
        tracing::debug!(%error, "the lease on dispatching could not be given back");
    }
}

struct Dispatcher {
    service: Service,
    list: List,
    sent: Sent,
    private: PrivateParts,
    /// The operations that were open when it was looked last; true where something is private.
    open: HashMap<(ProjectId, OperationId), bool>,
    authentic: Authentic,
    /// When what is private was looked for last.
    swept: Option<Instant>,
    sweeping: Option<JoinHandle<()>>,
}

/// What a device is sent of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Order,
    Cancel,
}

/// What was sent last of each run, and when: the same message is sent again only after a while. A
/// cancel does not wait because an order has just been sent.
#[derive(Debug, Default)]
struct Sent(HashMap<(OperationId, DeviceId), (Message, Instant)>);

impl Sent {
    fn forget_older_than(&mut self, age: Duration) {
        self.0.retain(|_, (_, at)| at.elapsed() < age);
    }

    /// Whether a message is to be sent now; if so, notes that it is.
    fn is_due(&mut self, operation: OperationId, device: DeviceId, message: Message) -> bool {
        let run = (operation, device);
        let is_due = self.0.get(&run).is_none_or(|(last, _)| *last != message);
        if is_due {
            self.0.insert(run, (message, Instant::now()));
        }
        is_due
    }
}

/// An append of one run, and what follows when it is in.
struct Planned {
    append: Append,
    send: Option<(DeviceId, Vec<u8>)>,
}

impl Dispatcher {
    async fn hold_lease(&self, holder: Uuid, has_lease: bool) -> bool {
        let log = &self.service.log;
        let held = if has_lease {
            log.renew_leases(holder, &[LEASE.to_owned()], LIFE).await.map(|held| !held.is_empty())
        } else {
            log.acquire_lease(LEASE, holder, LIFE).await.map(|lease| lease.is_some())
        };
        held.unwrap_or_else(|error| {
            tracing::debug!(%error, "the lease on dispatching could not be asked for");
            false
        })
    }

    async fn round(&mut self) -> Result<(), ServiceError> {
        let operations = self.list.operations().await?;
        let open: HashMap<(ProjectId, OperationId), bool> = operations
            .iter()
            .map(|(project, it)| ((project.clone(), it.id), it.requested.private.is_some()))
            .collect();
        let before = std::mem::replace(&mut self.open, open);
        for ((project, operation), has_private) in before {
            if has_private && !self.open.contains_key(&(project.clone(), operation)) {
                let service = self.service.clone();
                // Beside the rounds: the store may take its time. What fails, the sweep finds.
                tokio::spawn(async move { service.erase_private(&project, operation).await });
            }
        }
        let open: HashSet<OperationId> =
            self.open.keys().map(|(_, operation)| *operation).collect();
        self.private.begin_round(|id| open.contains(&id));
        self.authentic.keep(|id| open.contains(&id));
        self.sent.forget_older_than(AGAIN);
        let is_due = self.swept.is_none_or(|at| at.elapsed() >= SWEEP);
        if is_due && self.sweeping.as_ref().is_none_or(JoinHandle::is_finished) {
            self.swept = Some(Instant::now());
            let open = self.open.keys().cloned().collect();
            self.sweeping = Some(tokio::spawn(sweep(self.service.clone(), open)));
        }
        // Those that are aborted come first: their cancels wait for no order of another.
        let (aborted, others): (Vec<_>, Vec<_>) =
            operations.into_iter().partition(|(_, operation)| operation.aborted);
        for (project, operation) in aborted.into_iter().chain(others) {
            if let Err(error) = self.work(&project, &operation).await {
                tracing::warn!(%project, operation = %operation.id, %error, "an operation waits");
            }
        }
        Ok(())
    }

    async fn work(
        &mut self,
        project: &ProjectId,
        operation: &OpenOperation,
    ) -> Result<(), ServiceError> {
        let now = now();
        if let Some(cause) = rules::abort(operation) {
            return self
                .service
                .change_operation(project, operation.id, ACTOR, OperationCommand::Abort(cause))
                .await
                .map(drop);
        }
        let mut planned = Vec::new();
        if operation.aborted {
            for run in self.runs(project, operation, Which::NotCanceled).await? {
                planned.extend(plan(&run, RunCommand::Cancel));
            }
        }
        for run in self.runs(project, operation, Which::Gone).await? {
            planned.extend(close(&run, muster_schemas::events::ClosedState::Unknown, GONE));
        }
        if rules::is_expired(operation, now) {
            for run in self.runs(project, operation, Which::Waiting).await? {
                let state = muster_schemas::events::ClosedState::Expired;
                planned.extend(close(&run, state, "its device was not there in time"));
            }
        }
        let places = rules::places(operation, now).min(STRETCH);
        if places > 0 {
            let which = Which::Ready { at_once: operation.requested.at_once };
            let ready = self.list.runs(project, operation.id, which, places).await?;
            let authentic = self.authentic(project, operation, &ready).await?;
            for run in ready.iter().filter(|run| authentic.contains(&run.device)) {
                planned.extend(self.dispatch(project, operation, run)?);
            }
        }
        let mut due = Vec::new();
        let before = rules::look_before(operation, now);
        for run in self.runs(project, operation, Which::Sent { before }).await? {
            match rules::sent(operation, &run, now) {
                None => {}
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
                    self.service.send_cancel(project, &run).await?;
                }
                Some(Step::SendCancel) => {}
                Some(Step::SendOrder) => {
                    if let Some(order) = run.order.clone()
                        && self.sent.is_due(run.operation, run.device, Message::Order)
                    {
                        due.push((run.device, order));
                    }
                }
            }
        }
        // What is decided comes before what is sent.
        self.append(project, operation, planned).await?;
        for (device, order) in due {
            self.send(project, operation, device, order).await;
        }
        Ok(())
    }

    async fn runs(
        &self,
        project: &ProjectId,
        operation: &OpenOperation,
        which: Which,
    ) -> Result<Vec<OpenRun>, ServiceError> {
        Ok(self.list.runs(project, operation.id, which, STRETCH).await?)
    }

    /// The devices of those of these runs that the log says were asked for.
    async fn authentic(
        &mut self,
        project: &ProjectId,
        operation: &OpenOperation,
        runs: &[OpenRun],
    ) -> Result<HashSet<DeviceId>, ServiceError> {
        self.authentic.devices(&self.service.log, project, operation, runs).await
    }

    fn dispatch(
        &self,
        project: &ProjectId,
        operation: &OpenOperation,
        run: &OpenRun,
    ) -> Result<Option<Planned>, ServiceError> {
        let order = self.service.seal_order(project, operation, run.device, run.device_epoch)?;
        let command = RunCommand::Dispatch { epoch: run.device_epoch, order: order.clone() };
        let planned = plan(run, command);
        Ok(planned.map(|planned| Planned { send: Some((run.device, order)), ..planned }))
    }

    /// Sends an order. One that cannot be sent now is sent again, as one that was lost is.
    async fn send(
        &mut self,
        project: &ProjectId,
        operation: &OpenOperation,
        device: DeviceId,
        order: Vec<u8>,
    ) {
        let sealed = Sealed { project: project.clone(), device, order };
        if operation.requested.private.is_none() {
            return self.private.send_plain(&self.service, operation.id, sealed).await;
        }
        self.private.send(&self.service, operation.id, sealed).await;
    }

    /// Appends what was planned, each run for itself; sends the orders that are in.
    async fn append(
        &mut self,
        project: &ProjectId,
        operation: &OpenOperation,
        planned: Vec<Planned>,
    ) -> Result<(), ServiceError> {
        if planned.is_empty() {
            return Ok(());
        }
        let (appends, sends): (Vec<Append>, Vec<_>) =
            planned.into_iter().map(|planned| (planned.append, planned.send)).unzip();
        let results =
            self.service.log.append_batch(project, Batch { appends, offset: None }).await?;
        for (result, send) in results.into_iter().zip(sends) {
            match (result, send) {
                (Ok(_), Some((device, order))) => {
                    self.sent.is_due(operation.id, device, Message::Order);
                    self.send(project, operation, device, order).await;
                }
                // The list is behind the log: what was decided is decided again.
                (Ok(_), None) | (Err(AppendError::Conflict { .. }), _) => {}
                (Err(error), _) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Erases what is private of operations that are not open any more.
async fn sweep(service: Service, open: HashSet<(ProjectId, OperationId)>) {
    let swept = async {
        let now = now().micros().unsigned_abs() / 1000;
        for project in service.log.projects().await? {
            for name in service.blobs.folders(&key::operations(&project)).await? {
                let Ok(operation) = name.parse::<OperationId>() else { continue };
                let is_young = made_at(operation).is_none_or(|at| now < at + YOUNG);
                if !is_young && !open.contains(&(project.clone(), operation)) {
                    service.erase_private(&project, operation).await;
                }
            }
        }
        Ok::<_, ServiceError>(())
    };
    if let Err(error) = swept.await {
        tracing::warn!(%error, "what is private of ended operations may still be kept");
    }
}

/// When an operation was asked for, in milliseconds since 1970: its id says so.
fn made_at(operation: OperationId) -> Option<u64> {
    let (seconds, nanos) = operation.0.get_timestamp()?.to_unix();
    Some(seconds * 1000 + u64::from(nanos / 1_000_000))
}

const GONE: &str = "the device was revoked or deleted";

fn close(
    run: &OpenRun,
    state: muster_schemas::events::ClosedState,
    reason: &str,
) -> Option<Planned> {
    plan(run, RunCommand::Close { state, reason: reason.to_owned() })
}

/// The append that a decision leads to; `None` when nothing has to change.
fn plan(run: &OpenRun, command: RunCommand) -> Option<Planned> {
    let state = Run {
        requested: true,
        dispatched: (run.epoch > 0).then_some(run.epoch),
        canceled: run.canceled,
        ..Run::default()
    };
    let events: Vec<Event> = state.decide(command).ok()?;
    if events.is_empty() {
        return None;
    }
    let at = now();
    let events = events.iter().map(|event| NewEvent::server(event, at)).collect();
    let stream = StreamName::Run(run.operation, run.device);
    let append = Append { correlation: Some(run.operation.0), ..Append::by(ACTOR) };
    let append = append.stream(stream, Expected::Version(run.version), events);
    Some(Planned { append, send: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_does_not_wait_for_the_order_and_neither_is_repeated_at_once() {
        let mut sent = Sent::default();
        let (operation, device) = (OperationId(Uuid::from_u128(1)), DeviceId(Uuid::from_u128(2)));
        assert!(sent.is_due(operation, device, Message::Order));
        assert!(!sent.is_due(operation, device, Message::Order));
        assert!(sent.is_due(operation, device, Message::Cancel));
        assert!(!sent.is_due(operation, device, Message::Cancel));
        sent.forget_older_than(Duration::ZERO);
        assert!(sent.is_due(operation, device, Message::Cancel));
    }
}
