//! What operators say to machines that wait, and to devices that shall be out.

use axum::extract::State;
use axum::http::HeaderMap;
use muster_api::auth::{Scope, WriteDevices};
use muster_api::etag::IfMatchParam;
use muster_api::idempotency::IdempotencyParam;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::problem::WriteProblems;
use muster_api::{IdempotencyKey, IfMatch, Json, PathParam, Problem, Query};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{CommandState, WriteResult, headers, request};

/// The longest reason, in characters.
const MAX_REASON: usize = 500;

/// How a waiting machine is let in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"replaces": "robot-7"}))]
pub(super) struct AcceptDevice {
    /// The device that it is from now on, by id or name: that one keeps name, labels, config and
    /// history, and the machine's keys take the place of its own. A new device when left out.
    #[serde(default)]
    replaces: Option<String>,
}

/// Why a device is kept out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "stolen from the van"}))]
pub(super) struct KeepOut {
    /// In words, for whoever reads the log; up to 500 characters.
    #[serde(default)]
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Nothing needs to be said.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({}))]
pub(super) struct RotateKey {}

impl KeepOut {
    fn checked(self) -> Result<Option<String>, Problem> {
        match self.reason {
            Some(reason) if reason.chars().count() > MAX_REASON => {
                let rule = format!("must be at most {MAX_REASON} characters long");
                Err(Problem::field("reason", rule, Some(reason.into())))
            }
            reason => Ok(reason),
        }
    }
}

/// Let a waiting machine in
#[utoipa::path(
    post, path = "/api/v1/devices/{device}/accept", tag = "devices",
    params(
        ProjectParam,
        ("device" = String, Path, description = "Id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    request_body = AcceptDevice,
    responses((status = 200, description = "It is in", body = WriteResult, example = json!({"version": 4, "position": 42})), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn accept_device(
    State(state): State<CommandState>,
    scope: Scope<WriteDevices>,
    PathParam(device): PathParam<String>,
    Query(NoParams {}): Query<NoParams>,
    key: IdempotencyKey,
    if_match: IfMatch,
    Json(body): Json<AcceptDevice>,
) -> Result<(HeaderMap, axum::Json<WriteResult>), Problem> {
    let request = request(&scope.principal, scope.project, &key, &if_match);
    let device = state.service.requested_device(&request, &device).await?;
    let replaces = match &body.replaces {
        Some(other) => Some(state.service.resolve_device(&request.project, other).await?),
        None => None,
    };
    let written = state.service.accept_device(&request, device, replaces).await?;
    Ok((headers(written), axum::Json(written.into())))
}

/// Send a waiting machine away
#[utoipa::path(
    post, path = "/api/v1/devices/{device}/reject", tag = "devices",
    params(
        ProjectParam,
        ("device" = String, Path, description = "Id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    request_body = KeepOut,
    responses((status = 200, description = "It is gone", body = WriteResult, example = json!({"version": 4, "position": 42})), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn reject_device(
    State(state): State<CommandState>,
    scope: Scope<WriteDevices>,
    PathParam(device): PathParam<String>,
    Query(NoParams {}): Query<NoParams>,
    key: IdempotencyKey,
    if_match: IfMatch,
    Json(body): Json<KeepOut>,
) -> Result<(HeaderMap, axum::Json<WriteResult>), Problem> {
    let reason = body.checked()?;
    let request = request(&scope.principal, scope.project, &key, &if_match);
    let device = state.service.requested_device(&request, &device).await?;
    let written = state.service.reject_device(&request, device, reason).await?;
    Ok((headers(written), axum::Json(written.into())))
}

/// Ask a device for a new signing key
///
/// The device answers with `DeviceKeyRotated`, sealed by both keys; then the old one is worth nothing.
/// One that is away does it when it is back, once, however often it was asked meanwhile.
#[utoipa::path(
    post, path = "/api/v1/devices/{device}/rotate-key", tag = "devices",
    params(
        ProjectParam,
        ("device" = String, Path, description = "Id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    request_body = RotateKey,
    responses((status = 200, description = "It is asked", body = WriteResult, example = json!({"version": 4, "position": 42})), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn rotate_device_key(
    State(state): State<CommandState>,
    scope: Scope<WriteDevices>,
    PathParam(device): PathParam<String>,
    Query(NoParams {}): Query<NoParams>,
    key: IdempotencyKey,
    if_match: IfMatch,
    Json(RotateKey {}): Json<RotateKey>,
) -> Result<(HeaderMap, axum::Json<WriteResult>), Problem> {
    let request = request(&scope.principal, scope.project, &key, &if_match);
    let device = state.service.requested_device(&request, &device).await?;
    let written = state.service.rotate_device_key(&request, device).await?;
    Ok((headers(written), axum::Json(written.into())))
}

/// Revoke a device's keys
///
/// Its connection is closed and it does not come back, until it enrolls again with a token that was
/// made for it; name, labels, config and history stay.
#[utoipa::path(
    post, path = "/api/v1/devices/{device}/revoke", tag = "devices",
    params(
        ProjectParam,
        ("device" = String, Path, description = "Id or name", example = "robot-7"),
        IfMatchParam,
        IdempotencyParam,
    ),
    request_body = KeepOut,
    responses((status = 200, description = "It is out", body = WriteResult, example = json!({"version": 4, "position": 42})), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn revoke_device(
    State(state): State<CommandState>,
    scope: Scope<WriteDevices>,
    PathParam(device): PathParam<String>,
    Query(NoParams {}): Query<NoParams>,
    key: IdempotencyKey,
    if_match: IfMatch,
    Json(body): Json<KeepOut>,
) -> Result<(HeaderMap, axum::Json<WriteResult>), Problem> {
    let reason = body.checked()?;
    let request = request(&scope.principal, scope.project, &key, &if_match);
    let device = state.service.requested_device(&request, &device).await?;
    let written = state.service.revoke_device(&request, device, reason).await?;
    Ok((headers(written), axum::Json(written.into())))
}
