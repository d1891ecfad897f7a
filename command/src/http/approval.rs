//! Routes of pending enrollments and device keys: accept, reject, rotate, revoke.

use axum::extract::State;
use muster_api::auth::WriteDevices;
use muster_api::etag::IfMatchParam;
use muster_api::idempotency::IdempotencyParam;
use muster_api::params::ProjectParam;
use muster_api::problem::WriteProblems;
use muster_api::{Json, PathParam, Problem};
use muster_api_types::devices::{
    AcceptDevice, DeviceDetail, RejectDevice, RevokeDevice, RotateKey,
};
use muster_api_types::schema;

use super::location;
use super::state::CommandState;
use super::write::{Changed, VersionedWrite, changed};

/// Maximum length of a reason, in characters.
const MAX_REASON_CHARS: usize = 500;

fn checked_reason(reason: Option<String>) -> Result<Option<String>, Problem> {
    match reason {
        Some(reason) if reason.chars().count() > MAX_REASON_CHARS => {
            let rule = format!("must be at most {MAX_REASON_CHARS} characters long");
            Err(Problem::field("reason", rule, Some(reason.into())))
        }
        reason => Ok(reason),
    }
}

/// Accept a pending enrollment
///
/// The machine becomes a new device, or replaces the device that the request names.
#[utoipa::path(
    post, path = "/api/v1/devices/{device}/accept", tag = "devices",
    params(
        ProjectParam,
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    request_body = AcceptDevice,
    responses((status = 200, description = "Accepted", body = DeviceDetail), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn accept_device(
    State(state): State<CommandState>,
    VersionedWrite { request, .. }: VersionedWrite<WriteDevices>,
    PathParam(device): PathParam<String>,
    Json(body): Json<AcceptDevice>,
) -> Result<Changed, Problem> {
    let device = state.service.devices.requested(&request, &device).await?;
    let replaces = match &body.replaces {
        Some(other) => Some(state.service.devices.resolve(&request.project, other).await?),
        None => None,
    };
    let written = state.service.approvals.accept(&request, device, replaces).await?;
    Ok(changed(written, location::device(&request.project, replaces.unwrap_or(device))))
}

/// Reject a pending enrollment
///
/// The machine does not become a device; the event log keeps the reason.
#[utoipa::path(
    post, path = "/api/v1/devices/{device}/reject", tag = "devices",
    params(
        ProjectParam,
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    request_body = RejectDevice,
    responses((status = 200, description = "Rejected", body = DeviceDetail), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn reject_device(
    State(state): State<CommandState>,
    VersionedWrite { request, .. }: VersionedWrite<WriteDevices>,
    PathParam(device): PathParam<String>,
    Json(body): Json<RejectDevice>,
) -> Result<Changed, Problem> {
    let reason = checked_reason(body.reason)?;
    let device = state.service.devices.requested(&request, &device).await?;
    let written = state.service.approvals.reject(&request, device, reason).await?;
    Ok(changed(written, location::device(&request.project, device)))
}

/// Rotate a device's signing key
///
/// The device responds with `DeviceKeyRotated`, signed by both keys; then the previous key is
/// revoked. A device that is offline rotates its key when it reconnects, once, even if several
/// requests were made.
#[utoipa::path(
    post, path = "/api/v1/devices/{device}/rotate-key", tag = "devices",
    params(
        ProjectParam,
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    request_body = RotateKey,
    responses((status = 200, description = "Rotation requested", body = DeviceDetail), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn rotate_device_key(
    State(state): State<CommandState>,
    VersionedWrite { request, .. }: VersionedWrite<WriteDevices>,
    PathParam(device): PathParam<String>,
    Json(RotateKey {}): Json<RotateKey>,
) -> Result<Changed, Problem> {
    let device = state.service.devices.requested(&request, &device).await?;
    let written = state.service.devices.rotate_key(&request, device).await?;
    Ok(changed(written, location::device(&request.project, device)))
}

/// Revoke a device's keys
///
/// The device is disconnected and cannot reconnect until it enrolls again with a token that was
/// created for it. Its name, labels, config and history are kept.
#[utoipa::path(
    post, path = "/api/v1/devices/{device}/revoke", tag = "devices",
    params(
        ProjectParam,
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    request_body = RevokeDevice,
    responses((status = 200, description = "Revoked", body = DeviceDetail), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn revoke_device(
    State(state): State<CommandState>,
    VersionedWrite { request, .. }: VersionedWrite<WriteDevices>,
    PathParam(device): PathParam<String>,
    Json(body): Json<RevokeDevice>,
) -> Result<Changed, Problem> {
    let reason = checked_reason(body.reason)?;
    let device = state.service.devices.requested(&request, &device).await?;
    let written = state.service.approvals.revoke(&request, device, reason).await?;
    Ok(changed(written, location::device(&request.project, device)))
}
