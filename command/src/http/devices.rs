//! Routes that change devices.

use axum::extract::State;
use muster_api::auth::WriteDevices;
use muster_api::etag::{IfMatchParam, IfNoneMatchParam};
use muster_api::idempotency::IdempotencyParam;
use muster_api::params::ProjectParam;
use muster_api::problem::WriteProblems;
use muster_api::{Json, PathParam, Problem};
use muster_api_types::devices::{
    ChangeDevice, Config, DeviceDetail, DeviceRegisteredResult, RegisterDevice, ReplaceConfig,
    ReplaceDevice, SetConfig,
};
use muster_api_types::schema;
use muster_schemas::DeviceId;
use muster_schemas::names::DeviceName;

use super::location;
use super::state::CommandState;
use super::write::{Changed, Created, VersionedWrite, Write, changed, created, put};
use crate::service::{DeviceChanges, PutDevice};

/// Register a device
///
/// Creates a device before it enrolls: its name is reserved, and an enrollment token can be created
/// for it.
#[utoipa::path(
    post, path = "/api/v1/devices", tag = "devices",
    params(ProjectParam, IdempotencyParam),
    request_body = RegisterDevice,
    responses((status = 201, description = "The device", body = DeviceDetail), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn register_device(
    State(state): State<CommandState>,
    Write { request, .. }: Write<WriteDevices>,
    Json(body): Json<RegisterDevice>,
) -> Result<Created<DeviceRegisteredResult>, Problem> {
    let RegisterDevice { name, labels, fingerprint } = body;
    let registered = state.service.devices.register(&request, name, labels, fingerprint);
    let (id, written) = registered.await?;
    let result = DeviceRegisteredResult { id, result: written.into() };
    Ok(created(written, &location::device(&request.project, id), result))
}

/// Rename or label a device
///
/// Fields and labels that the request does not contain are unchanged.
#[utoipa::path(
    patch, path = "/api/v1/devices/{device}", tag = "devices",
    params(
        ProjectParam,
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    request_body = ChangeDevice,
    responses((status = 200, description = "Changed", body = DeviceDetail), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn change_device(
    State(state): State<CommandState>,
    VersionedWrite { request, .. }: VersionedWrite<WriteDevices>,
    PathParam(device): PathParam<String>,
    Json(body): Json<ChangeDevice>,
) -> Result<Changed, Problem> {
    let device = state.service.devices.requested(&request, &device).await?;
    let ChangeDevice { name, labels } = body;
    let changes = DeviceChanges { name, labels, ..DeviceChanges::default() };
    let written = state.service.devices.change(&request, device, changes).await?;
    Ok(changed(written, location::device(&request.project, device)))
}

/// Create a device, or replace its labels
///
/// Registers the device if no device has this name. Labels that the request does not contain are
/// removed. With `If-Match`, no device is created.
#[utoipa::path(
    put, path = "/api/v1/devices/{device}", tag = "devices",
    params(
        ProjectParam,
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IfMatchParam,
        IfNoneMatchParam,
        IdempotencyParam,
    ),
    request_body = ReplaceDevice,
    responses(
        (status = 200, description = "Replaced", body = DeviceDetail),
        (status = 201, description = "Created", body = DeviceDetail),
        WriteProblems,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn replace_device(
    State(state): State<CommandState>,
    VersionedWrite { request, .. }: VersionedWrite<WriteDevices>,
    PathParam(device): PathParam<String>,
    Json(body): Json<ReplaceDevice>,
) -> Result<Changed, Problem> {
    if device.parse::<DeviceId>().is_err()
        && let Err(error) = device.parse::<DeviceName>()
    {
        return Err(Problem::parameter("device", error.rule, Some(error.value.into())));
    }
    let done = state.service.devices.put(&request, &device, body.labels).await?;
    let PutDevice { id, is_new, written } = done;
    Ok(put(written, location::device(&request.project, id), is_new))
}

/// Replace the config variables of a device
///
/// As `PATCH`, and variables that the request does not contain are removed.
#[utoipa::path(
    put, path = "/api/v1/devices/{device}/config", tag = "devices",
    params(
        ProjectParam,
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    request_body = ReplaceConfig,
    responses((status = 200, description = "Replaced", body = Config), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn replace_device_config(
    State(state): State<CommandState>,
    VersionedWrite { request, .. }: VersionedWrite<WriteDevices>,
    PathParam(device): PathParam<String>,
    Json(body): Json<ReplaceConfig>,
) -> Result<Changed, Problem> {
    let device = state.service.devices.requested(&request, &device).await?;
    let written = state.service.devices.replace_config(&request, device, body.vars).await?;
    Ok(changed(written, location::device_config(&request.project, device)))
}

/// Set config variables of a device
///
/// The device receives the change immediately if it is online, otherwise when it reconnects; it
/// reports what it has applied.
#[utoipa::path(
    patch, path = "/api/v1/devices/{device}/config", tag = "devices",
    params(
        ProjectParam,
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    request_body = SetConfig,
    responses((status = 200, description = "Set", body = Config), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn set_device_config(
    State(state): State<CommandState>,
    VersionedWrite { request, .. }: VersionedWrite<WriteDevices>,
    PathParam(device): PathParam<String>,
    Json(body): Json<SetConfig>,
) -> Result<Changed, Problem> {
    let device = state.service.devices.requested(&request, &device).await?;
    let changes = DeviceChanges { vars: body.vars, ..DeviceChanges::default() };
    let written = state.service.devices.change(&request, device, changes).await?;
    Ok(changed(written, location::device_config(&request.project, device)))
}

/// Delete a device
///
/// Its name becomes free, its keys are revoked, and its connection is closed. Its history is kept.
#[utoipa::path(
    delete, path = "/api/v1/devices/{device}", tag = "devices",
    params(
        ProjectParam,
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    responses((status = 200, description = "Deleted", body = DeviceDetail), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn delete_device(
    State(state): State<CommandState>,
    VersionedWrite { request, .. }: VersionedWrite<WriteDevices>,
    PathParam(device): PathParam<String>,
) -> Result<Changed, Problem> {
    let device = state.service.devices.requested(&request, &device).await?;
    let written = state.service.devices.delete(&request, device).await?;
    Ok(changed(written, location::device(&request.project, device)))
}
