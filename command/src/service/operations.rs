//! Operations: requested, paused, resumed, aborted; runs: canceled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_blobs::{Blobs, key};
use muster_eventlog::{Append, AppendError, Appended, Expected, NewEvent};
use muster_schemas::events::{Action, OperationRequested, PrivatePart};
use muster_schemas::wire::internal::WithoutFreshValue;
use muster_schemas::wire::{MAX_PRIVATE_BYTES, PrivateInput};
use muster_schemas::{
    DeviceId, Event, Hash, OperationId, ProjectId, RunState, StreamName, StreamVersion, Timestamp,
    codec,
};
use uuid::Uuid;

use super::targets::{ResolvedTarget, Target, TargetResolver};
use crate::clock::now;
use crate::dispatch::{Dispatch, ImmediateOrder, OpenOperation, WorkQueue};
use crate::domain::kinds;
use crate::domain::operation::{Operation, OperationCommand};
use crate::domain::run::{Run, RunCommand};
use crate::domain::{Conflict, Decider, Rejection};
use crate::error::CommandError;
use crate::executor::Executor;
use crate::request::{Request, Written};

/// Time that a request waits for the work queue to catch up with the log.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(200);

/// A new operation.
#[derive(Clone, Debug)]
pub struct NewOperation {
    /// Target devices.
    pub target: Target,
    /// Action that each device runs.
    pub action: Action,
    /// Environment variables of a program.
    pub env: BTreeMap<String, String>,
    /// Standard input of a program.
    pub stdin: Vec<u8>,
    /// Timeout of a run, in milliseconds.
    pub timeout_ms: u64,
    /// Time at which runs that have not started expire.
    pub expires_at: Timestamp,
    /// Maximum number of devices that run it concurrently.
    pub max_concurrent: u32,
    /// Number of unsuccessful runs after which it is aborted.
    pub stop_after: Option<u32>,
}

/// A requested operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedOperation {
    /// Id of the operation.
    pub id: OperationId,
    /// Number of target devices.
    pub devices: u64,
    /// Metrics of the selector of which devices had no fresh value.
    pub without_fresh_value: Vec<WithoutFreshValue>,
    /// Version and position of the request in the log.
    pub written: Written,
}

/// Requests and changes operations, and cancels runs.
#[derive(Clone, Debug)]
pub struct Operations {
    executor: Executor,
    dispatch: Dispatch,
    blobs: Blobs,
    targets: TargetResolver,
}

impl Operations {
    pub(super) const fn new(
        executor: Executor,
        dispatch: Dispatch,
        blobs: Blobs,
        targets: TargetResolver,
    ) -> Self {
        Self { executor, dispatch, blobs, targets }
    }

    /// Requests an operation. The same request again returns the same operation.
    ///
    /// # Errors
    /// When no device is selected, a named one does not exist, a rule is violated, or the log or
    /// the blob store cannot be used.
    pub async fn request(
        &self,
        request: &Request,
        new: NewOperation,
    ) -> Result<CreatedOperation, CommandError> {
        if let Some(made) = self.previous_operation(request).await? {
            return Ok(made);
        }
        let target = self.targets.resolve(&request.project, &new.target).await?;
        let ResolvedTarget { devices, without_fresh_value } = target;
        let id = OperationId(Uuid::now_v7());
        let input = private_input(&new)?;
        let private = input.as_ref().map(|bytes| PrivatePart {
            hash: Hash::of(bytes),
            bytes: bytes.len() as u64,
            stdin_bytes: new.stdin.len() as u64,
        });
        let requested = OperationRequested {
            action: new.action,
            target: new.target.into(),
            devices: devices.len() as u64,
            private,
            timeout_ms: new.timeout_ms,
            expires_at: new.expires_at,
            at_once: new.max_concurrent,
            stop_after: new.stop_after,
        };
        let command = OperationCommand::Request(Box::new(requested.clone()));
        let events = Operation::default().decide(command)?;
        // Private input is stored before the events that refer to it.
        if let Some(bytes) = input {
            self.blobs.put(&key::private(&request.project, id), bytes.into()).await?;
        }
        let open = OpenOperation {
            id,
            actor: request.actor.clone(),
            requested,
            is_paused: false,
            is_aborted: false,
            failures: 0,
            active: 0,
        };
        let started =
            self.dispatch.orders.immediate_orders(&request.project, &open, &devices, now()).await;
        let appended = self.append_operation(request, id, &events, &devices, &started).await;
        if appended.is_err() {
            self.dispatch.orders.erase_private(&request.project, id).await;
        }
        // When the same request is processed concurrently, the other operation may be the one in
        // the log.
        let mut made = self.created_operation(&request.project, appended?).await?;
        if made.id == id {
            made.without_fresh_value = without_fresh_value;
            for ImmediateOrder { device, order, .. } in started {
                self.dispatch.orders.send_order(&request.project, device, id, order, None).await;
            }
        }
        Ok(made)
    }

    async fn append_operation(
        &self,
        request: &Request,
        id: OperationId,
        requested: &[Event],
        devices: &BTreeSet<DeviceId>,
        immediate_orders: &[ImmediateOrder],
    ) -> Result<Appended, CommandError> {
        self.executor.check_not_archived(&request.project).await?;
        let at = now();
        let facts =
            |events: &[Event]| events.iter().map(|event| NewEvent::server(event, at)).collect();
        let mut append = Append {
            append_id: Some(request.append_id),
            request_hash: self.executor.stored_hash(request),
            correlation: Some(id.0),
            ..Append::by_actor(request.actor.clone())
        };
        append = append.stream(
            StreamName::Operation(id),
            Expected::Version(StreamVersion::ZERO),
            facts(requested),
        );
        let share = Run::default().decide(RunCommand::Request)?;
        let waiting = share.iter().fold(Run::default(), Run::evolve);
        // Dispatched runs first: a reader of a prefix of these events knows how many slots are in
        // use.
        for ImmediateOrder { device, epoch, order } in immediate_orders {
            let command = RunCommand::Dispatch { epoch: *epoch, order: order.clone() };
            let events = [&share[..], &waiting.decide(command)?].concat();
            append = append.stream(
                StreamName::Run(id, *device),
                Expected::Version(StreamVersion::ZERO),
                facts(&events),
            );
        }
        let is_started = |device: &&DeviceId| {
            immediate_orders.iter().any(|immediate| immediate.device == **device)
        };
        for device in devices.iter().filter(|device| !is_started(device)) {
            let stream = StreamName::Run(id, *device);
            append = append.stream(stream, Expected::Version(StreamVersion::ZERO), facts(&share));
        }
        Ok(self.executor.log.append(&request.project, append).await?)
    }

    /// Returns the operation of the request's first attempt.
    async fn previous_operation(
        &self,
        request: &Request,
    ) -> Result<Option<CreatedOperation>, CommandError> {
        match self.executor.appended(request).await? {
            Some(appended) => self.created_operation(&request.project, appended).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns the operation that an append created.
    async fn created_operation(
        &self,
        project: &ProjectId,
        appended: Appended,
    ) -> Result<CreatedOperation, CommandError> {
        let first = self.executor.log.read_positions(project, &[appended.first]).await?;
        let made = first.first().map(|stored| (stored.stream.clone(), stored.event()));
        match made {
            Some((StreamName::Operation(id), Ok(Event::OperationRequested(requested)))) => {
                Ok(CreatedOperation {
                    id,
                    devices: requested.devices,
                    without_fresh_value: Vec::new(),
                    written: Written { version: StreamVersion::FIRST, position: appended.last },
                })
            }
            _ => Err(AppendError::IdReused.into()),
        }
    }

    /// Pauses, resumes or aborts an operation for an operator.
    ///
    /// # Errors
    /// When the operation does not exist, it has finished, or the log cannot be used.
    pub async fn control(
        &self,
        project: &ProjectId,
        operation: OperationId,
        actor: &str,
        command: OperationCommand,
    ) -> Result<Written, CommandError> {
        let stream = StreamName::Operation(operation);
        let loaded = self.executor.load::<Operation>(project, &stream).await?;
        // A command without effect is not a conflict: a repeated abort gets the same response.
        if !loaded.state.decide(command.clone())?.is_empty() {
            self.check_open(project, operation, None).await?;
        }
        let request = Request::unconditional(project.clone(), actor.to_owned(), Uuid::new_v4());
        self.executor.execute::<Operation>(&request, &stream, command).await
    }

    /// Rejects a change of an operation, or of one of its runs, that has ended.
    ///
    /// The work queue knows which runs are open. It must have caught up with the current end of the
    /// log; if it does not in time, the change is allowed: a stuck queue must not prevent an abort.
    async fn check_open(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: Option<DeviceId>,
    ) -> Result<(), CommandError> {
        let head = self.executor.log.newest_position(project).await?;
        if !self.dispatch.progress.wait_for(project, head, QUEUE_TIMEOUT).await {
            tracing::warn!(%project, "the list of open runs is behind the log");
            return Ok(());
        }
        if WorkQueue::new(self.executor.log.clone()).is_open(project, operation, device).await? {
            return Ok(());
        }
        let ended = match device {
            Some(_) => Conflict::RunEnded,
            None => Conflict::OperationFinished,
        };
        Err(Rejection::from(ended).into())
    }

    /// Cancels one run.
    ///
    /// # Errors
    /// When the run does not exist, it has ended, or the log cannot be used.
    pub async fn cancel_run(
        &self,
        request: &Request,
        operation: OperationId,
        device: DeviceId,
    ) -> Result<Written, CommandError> {
        let decide = |run: Run| async move {
            let events = run.decide(RunCommand::Cancel)?;
            let has_ended = run.state.is_some_and(RunState::is_final);
            if has_ended || !events.is_empty() {
                self.check_open(&request.project, operation, Some(device)).await?;
            }
            Ok(events.into())
        };
        self.executor.carry_out(request, StreamName::Run(operation, device), decide).await
    }
}

/// Returns the encoded private input; `None` when there is none.
fn private_input(new: &NewOperation) -> Result<Option<Vec<u8>>, Rejection> {
    if new.env.is_empty() && new.stdin.is_empty() {
        return Ok(None);
    }
    let invalid = |field: &'static str, rule: String, value: String| {
        Err(Rejection::Invalid { field, rule, value })
    };
    if !kinds::of(&new.action).takes_private_input() {
        let rule = "only a program can have variables and standard input".to_owned();
        return invalid("action", rule, new.action.name().to_owned());
    }
    if let Some((name, _)) = new.env.iter().find(|(_, value)| value.contains('\0')) {
        return invalid("action.env", "its value contains a NUL".to_owned(), name.clone());
    }
    let salt: [u8; 32] = rand::random();
    let input =
        PrivateInput { salt: salt.to_vec(), env: new.env.clone(), stdin: new.stdin.clone() };
    let bytes = codec::encode(&input);
    if bytes.len() > MAX_PRIVATE_BYTES {
        let rule = format!(
            "variables and standard input exceed {MAX_PRIVATE_BYTES} bytes; copy a file instead"
        );
        return invalid("action.stdin_base64", rule, bytes.len().to_string());
    }
    Ok(Some(bytes))
}
