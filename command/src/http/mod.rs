//! HTTP routes of the write side. Handlers translate between HTTP and the service and decide
//! nothing.

mod approval;
mod connections;
mod dead_letters;
mod device;
mod devices;
mod operations;
mod problems;
mod projects;
mod sessions;
mod tokens;
mod uploads;

use axum::extract::FromRef;
use axum::http::HeaderMap;
use axum::middleware::{from_fn, from_fn_with_state};
use muster_api::auth::{Principal, end_with_token};
use muster_api::idempotency::repeatable;
use muster_api::{ApiState, IdempotencyKey, IfMatch, etag, position_header};
use muster_schemas::ProjectId;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::service::{Request, Service, Written};

/// State that the handlers share.
#[derive(Clone, Debug)]
pub struct CommandState {
    api: ApiState,
    service: Service,
}

impl FromRef<CommandState> for ApiState {
    fn from_ref(state: &CommandState) -> Self {
        state.api.clone()
    }
}

/// Result of a write.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct WriteResult {
    /// Version of the resource; also the `ETag`.
    #[schema(example = 3)]
    pub version: u64,
    /// Position of the write in the project's log. Send it as `Muster-Min-Position` with a read
    /// that must include the write.
    #[schema(example = 42)]
    pub position: u64,
}

impl From<Written> for WriteResult {
    fn from(Written { version, position }: Written) -> Self {
        Self { version, position }
    }
}

/// The headers of the response to a write.
fn headers(written: Written) -> HeaderMap {
    HeaderMap::from_iter([etag(written.version), position_header(written.position)])
}

/// The service's representation of a request.
fn request(
    principal: &Principal,
    project: ProjectId,
    key: &IdempotencyKey,
    if_match: &IfMatch,
) -> Request {
    let versions = match if_match {
        IfMatch::Absent | IfMatch::Any => None,
        IfMatch::Versions(versions) => Some(versions.clone()),
    };
    Request {
        project,
        actor: principal.actor(),
        append_id: key.append_id(principal),
        request_hash: key.request_hash(),
        versions,
    }
}

/// All routes of the write side, with their OpenAPI description.
pub fn router(api: ApiState, service: Service) -> OpenApiRouter {
    routes()
        .layer(from_fn(repeatable))
        .layer(from_fn_with_state(api.clone(), end_with_token))
        .with_state(CommandState { api, service })
}

/// The write side's part of the OpenAPI document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

fn routes() -> OpenApiRouter<CommandState> {
    OpenApiRouter::new()
        .routes(routes!(devices::register_device))
        .routes(routes!(devices::change_device, devices::delete_device))
        .routes(routes!(devices::set_device_config))
        .routes(routes!(approval::accept_device))
        .routes(routes!(approval::reject_device))
        .routes(routes!(approval::revoke_device))
        .routes(routes!(approval::rotate_device_key))
        .routes(routes!(operations::request_operation))
        .routes(routes!(operations::pause_operation))
        .routes(routes!(operations::resume_operation))
        .routes(routes!(operations::abort_operation))
        .routes(routes!(operations::cancel_run))
        .routes(routes!(uploads::delete_upload))
        .routes(routes!(uploads::create_download_link))
        .routes(routes!(sessions::open_shell))
        .routes(routes!(sessions::attach_session))
        .routes(routes!(sessions::end_session))
        .routes(routes!(connections::open_tcp))
        .routes(routes!(connections::open_files))
        .routes(routes!(tokens::create_enrollment_token))
        .routes(routes!(tokens::revoke_enrollment_token))
        .routes(routes!(tokens::create_token))
        .routes(routes!(tokens::revoke_token))
        .routes(routes!(projects::create_project))
        .routes(routes!(projects::change_project))
        .routes(routes!(dead_letters::retry_dead_letter))
        .routes(routes!(device::enroll_device))
        .routes(routes!(device::create_nonce))
        .routes(routes!(device::renew_credentials))
}
