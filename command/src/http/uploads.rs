//! Routes of stored uploads: erase them, create download links. Uploads are requested as
//! operations.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use muster_api::auth::RunOperations;
use muster_api::idempotency::IdempotencyParam;
use muster_api::params::ProjectParam;
use muster_api::problem::WriteProblems;
use muster_api::{Json, PathParam, Problem, etag, position_header};
use muster_api_types::schema;
use muster_api_types::uploads::{CreateDownloadLink, DownloadLink, Upload};
use muster_schemas::OperationId;
use muster_schemas::events::EraseCause;

use super::location;
use super::state::CommandState;
use super::write::{Changed, Created, Write, changed};

/// Maximum lifetime of a download link, in seconds: 7 days.
const MAX_LINK_TTL_SECS: u32 = 7 * 24 * 3600;

/// Erase a stored file
///
/// The file's data is deleted, and links to it stop working. An upload in progress is stopped, and
/// its run fails.
#[utoipa::path(
    delete, path = "/api/v1/uploads/{operation}/{device}", tag = "uploads",
    params(
        ProjectParam,
        ("operation" = schema::OperationId, Path, description = "The operation's id"),
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IdempotencyParam,
    ),
    responses((status = 200, description = "Erased", body = Upload), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn delete_upload(
    State(state): State<CommandState>,
    Write { request, .. }: Write<RunOperations>,
    PathParam((operation, device)): PathParam<(OperationId, String)>,
) -> Result<Changed, Problem> {
    let device = state.service.devices.requested(&request, &device).await?;
    let erased = state.service.uploads.erase(&request, operation, device, EraseCause::Asked);
    Ok(changed(erased.await?, location::upload(&request.project, operation, device)))
}

/// Create a download link for a stored file
///
/// The link allows the file to be downloaded without a token, until it expires or the file is
/// erased.
#[utoipa::path(
    post, path = "/api/v1/uploads/{operation}/{device}/link", tag = "uploads",
    params(
        ProjectParam,
        ("operation" = schema::OperationId, Path, description = "The operation's id"),
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        IdempotencyParam,
    ),
    request_body = CreateDownloadLink,
    responses((status = 201, description = "The link", body = DownloadLink), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn create_download_link(
    State(state): State<CommandState>,
    Write { request, .. }: Write<RunOperations>,
    PathParam((operation, device)): PathParam<(OperationId, String)>,
    Json(body): Json<CreateDownloadLink>,
) -> Result<Created<DownloadLink>, Problem> {
    if !(1..=MAX_LINK_TTL_SECS).contains(&body.expires_in_seconds) {
        let rule = format!("must be from 1 to {MAX_LINK_TTL_SECS}");
        return Err(Problem::field(
            "expires_in_seconds",
            rule,
            Some(body.expires_in_seconds.into()),
        ));
    }
    let device = state.service.devices.requested(&request, &device).await?;
    let expires_at = crate::clock::now() + Duration::from_secs(body.expires_in_seconds.into());
    let made = state.service.uploads.create_link(&request, operation, device, expires_at).await?;
    let link = DownloadLink {
        url: format!("/api/v1/downloads/{}", made.text),
        expires_at: made.expires_at,
        result: made.written.into(),
    };
    let headers = [etag(made.written.version), position_header(made.written.position)];
    Ok((StatusCode::CREATED, HeaderMap::from_iter(headers), axum::Json(link)))
}
