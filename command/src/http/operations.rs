//! Routes of operations: request, pause, resume and abort them, and cancel a run.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;

use data_encoding::BASE64;
use muster_api::auth::{RunOperations, Scope};
use muster_api::idempotency::IdempotencyParam;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::problem::WriteProblems;
use muster_api::{Json, PathParam, Problem, Query};
use muster_api_types::actions::{Action, ExecAction, LogLevelAction, ShellAction};
use muster_api_types::operations::{
    self as api, DevicesTarget, OperationDetail, OperationRequestedResult, RequestOperation,
    SelectorTarget,
};
use muster_api_types::runs::Run;
use muster_api_types::schema;
use muster_schemas::OperationId;
use muster_schemas::events::{self, AbortCause, Exec, Program};

use super::location;
use super::state::CommandState;
use super::write::{Changed, Created, Write, changed, created};
use crate::domain::kinds;
use crate::domain::operation::OperationCommand;
use crate::service::{NewOperation, Target};

/// Maximum time until an operation expires, in seconds: 30 days.
const MAX_EXPIRY_SECS: u32 = 30 * 24 * 3600;
/// Maximum number of devices that run an operation concurrently.
const MAX_CONCURRENT_DEVICES: u32 = 1_000;

/// Request an operation
///
/// The operation is durable when the response is sent. Devices that are online receive it
/// immediately, others when they reconnect, until it expires. Each device runs it at most once.
#[utoipa::path(
    post, path = "/api/v1/operations", tag = "operations",
    params(ProjectParam, IdempotencyParam),
    request_body = RequestOperation,
    responses((status = 201, description = "The operation", body = OperationDetail), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn request_operation(
    State(state): State<CommandState>,
    Write { request, .. }: Write<RunOperations>,
    Json(body): Json<RequestOperation>,
) -> Result<Created<OperationRequestedResult>, Problem> {
    let new = parse(body)?;
    let made = state.service.operations.request(&request, new).await?;
    let result = OperationRequestedResult {
        id: made.id,
        device_count: made.devices,
        without_fresh_value: made.without_fresh_value.into_iter().map(Into::into).collect(),
        result: made.written.into(),
    };
    Ok(created(made.written, &location::operation(&request.project, made.id), result))
}

fn check_max(field: &'static str, value: u32, max: u32) -> Result<(), Problem> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(Problem::field(field, format!("must be from 1 to {max}"), Some(value.into())))
}

fn parse(body: RequestOperation) -> Result<NewOperation, Problem> {
    let (action, env, stdin) = action(body.action)?;
    let timeouts = kinds::of(&action).timeouts();
    let timeout_seconds = body.timeout_seconds.unwrap_or(timeouts.default_secs);
    check_max("timeout_seconds", timeout_seconds, timeouts.max_secs)?;
    check_max("expires_in_seconds", body.expires_in_seconds, MAX_EXPIRY_SECS)?;
    check_max("max_concurrent_devices", body.max_concurrent_devices, MAX_CONCURRENT_DEVICES)?;
    if let Some(max_failures) = body.max_failures {
        check_max("max_failures", max_failures, u32::MAX)?;
    }
    let target = target(body.target)?;
    Ok(NewOperation {
        target,
        action,
        env,
        stdin,
        timeout_ms: u64::from(timeout_seconds) * 1_000,
        expires_at: crate::clock::now() + Duration::from_secs(body.expires_in_seconds.into()),
        max_concurrent: body.max_concurrent_devices,
        stop_after: body.max_failures,
    })
}

/// Reads the target devices of an operation or of a bulk write.
pub(super) fn target(target: api::Target) -> Result<Target, Problem> {
    match target {
        api::Target::Devices(DevicesTarget { devices }) if devices.len() <= 1_000 => {
            Ok(Target::Devices(devices))
        }
        api::Target::Devices(DevicesTarget { devices }) => {
            let rule = "names more than 1000 devices; use a selector";
            Err(Problem::field("target.devices", rule, Some(devices.len().into())))
        }
        api::Target::Selector(SelectorTarget { selector }) => Ok(Target::Selector(selector)),
    }
}

/// An action, and its private parts: environment variables and standard input.
type ActionParts = (events::Action, BTreeMap<String, String>, Vec<u8>);

fn action(action: Action) -> Result<ActionParts, Problem> {
    let plain = |action: events::Action| Ok((action, BTreeMap::new(), Vec::new()));
    match action {
        Action::RestartAgent(_) => plain(events::Action::RestartAgent),
        Action::Reboot(_) => plain(events::Action::Reboot),
        Action::Diagnostics(_) => plain(events::Action::Diagnostics),
        Action::LogLevel(LogLevelAction { level, duration_seconds: seconds }) => {
            plain(events::Action::LogLevel { level, seconds })
        }
        Action::Upload(upload) => plain(events::Action::Upload(upload.into())),
        Action::Exec(exec) => {
            let ExecAction { argv, cwd, user, env, stdin_base64, background, .. } = exec;
            check_not_sent(&exec.env_names, exec.stdin_bytes)?;
            let stdin = decode_stdin(stdin_base64)?;
            let program = Program::Argv(argv);
            let names = env.keys().cloned().collect();
            let exec = Exec { program, cwd, user, env: names, background };
            Ok((events::Action::Exec(exec), env, stdin))
        }
        Action::Shell(shell) => {
            let ShellAction { command, cwd, user, env, stdin_base64, background, .. } = shell;
            check_not_sent(&shell.env_names, shell.stdin_bytes)?;
            let stdin = decode_stdin(stdin_base64)?;
            let program = Program::Shell(command);
            let names = env.keys().cloned().collect();
            let exec = Exec { program, cwd, user, env: names, background };
            Ok((events::Action::Exec(exec), env, stdin))
        }
    }
}

/// Refuses what only responses have: an action that was copied from a response lacks its private
/// parts, and would run without them.
fn check_not_sent(env_names: &[String], stdin_bytes: Option<u64>) -> Result<(), Problem> {
    if !env_names.is_empty() {
        let rule = "is only in responses: send env with the values";
        return Err(Problem::field("action.env_names", rule, None));
    }
    if stdin_bytes.is_some() {
        let rule = "is only in responses: send stdin_base64";
        return Err(Problem::field("action.stdin_bytes", rule, None));
    }
    Ok(())
}

fn decode_stdin(base64: Option<String>) -> Result<Vec<u8>, Problem> {
    let Some(text) = base64 else { return Ok(Vec::new()) };
    BASE64.decode(text.as_bytes()).map_err(|error| {
        Problem::field("action.stdin_base64", format!("is not base64: {error}"), None)
    })
}

/// Pause an operation
///
/// No further run starts; runs that devices have received continue.
#[utoipa::path(
    post, path = "/api/v1/operations/{operation}/pause", tag = "operations",
    params(ProjectParam, ("operation" = schema::OperationId, Path, description = "The operation's id")),
    responses((status = 200, description = "Paused", body = OperationDetail), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn pause_operation(
    State(state): State<CommandState>,
    scope: Scope<RunOperations>,
    PathParam(operation): PathParam<OperationId>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Changed, Problem> {
    change(&state, scope, operation, OperationCommand::Pause).await
}

/// Resume an operation
///
/// The dispatch of its waiting runs continues.
#[utoipa::path(
    post, path = "/api/v1/operations/{operation}/resume", tag = "operations",
    params(ProjectParam, ("operation" = schema::OperationId, Path, description = "The operation's id")),
    responses((status = 200, description = "Resumed", body = OperationDetail), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn resume_operation(
    State(state): State<CommandState>,
    scope: Scope<RunOperations>,
    PathParam(operation): PathParam<OperationId>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Changed, Problem> {
    change(&state, scope, operation, OperationCommand::Resume).await
}

/// Abort an operation
///
/// No further run starts; runs that devices have received are canceled.
#[utoipa::path(
    post, path = "/api/v1/operations/{operation}/abort", tag = "operations",
    params(ProjectParam, ("operation" = schema::OperationId, Path, description = "The operation's id")),
    responses((status = 200, description = "Aborted", body = OperationDetail), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn abort_operation(
    State(state): State<CommandState>,
    scope: Scope<RunOperations>,
    PathParam(operation): PathParam<OperationId>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Changed, Problem> {
    change(&state, scope, operation, OperationCommand::Abort(AbortCause::Asked)).await
}

async fn change(
    state: &CommandState,
    scope: Scope<RunOperations>,
    operation: OperationId,
    command: OperationCommand,
) -> Result<Changed, Problem> {
    let actor = scope.principal.actor();
    let service = &state.service;
    let written = service.operations.control(&scope.project, operation, &actor, command).await?;
    Ok(changed(written, location::operation(&scope.project, operation)))
}

/// Cancel a run
///
/// Its processes receive SIGTERM, then SIGKILL; the device reports when they have ended. A run that
/// no device has received ends immediately.
#[utoipa::path(
    post, path = "/api/v1/operations/{operation}/runs/{device}/cancel", tag = "operations",
    params(
        ProjectParam,
        ("operation" = schema::OperationId, Path, description = "The operation's id"),
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IdempotencyParam,
    ),
    responses((status = 200, description = "Cancellation requested", body = Run), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn cancel_run(
    State(state): State<CommandState>,
    Write { request, .. }: Write<RunOperations>,
    PathParam((operation, device)): PathParam<(OperationId, String)>,
) -> Result<Changed, Problem> {
    let device = state.service.devices.requested(&request, &device).await?;
    let written = state.service.operations.cancel_run(&request, operation, device).await?;
    Ok(changed(written, location::run(&request.project, operation, device)))
}
