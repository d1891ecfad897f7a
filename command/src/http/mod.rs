//! HTTP routes of the write side. Handlers translate between HTTP and the service and decide
//! nothing.

mod approval;
mod bulk;
mod connections;
mod dead_letters;
mod device;
mod devices;
mod location;
mod operations;
mod problems;
mod projects;
mod sessions;
mod state;
mod tokens;
mod uploads;
mod websocket_refusals;
mod write;

use axum::middleware::{from_fn, from_fn_with_state};
use muster_api::ApiState;
use muster_api::auth::end_with_token;
use muster_api::idempotency::repeatable;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::service::Service;

use state::CommandState;

/// All routes of the write side, with their OpenAPI description.
pub fn router(api: ApiState, service: Service) -> OpenApiRouter {
    routes()
        .layer(from_fn(repeatable))
        .layer(from_fn_with_state(api.clone(), end_with_token))
        .layer(from_fn(websocket_refusals::close_with_reason))
        .with_state(CommandState::new(api, service))
}

/// The write side's part of the OpenAPI document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

fn routes() -> OpenApiRouter<CommandState> {
    OpenApiRouter::new()
        .routes(routes!(devices::register_device))
        .routes(routes!(devices::change_device, devices::replace_device, devices::delete_device))
        .routes(routes!(devices::set_device_config, devices::replace_device_config))
        .routes(routes!(bulk::register_devices))
        .routes(routes!(bulk::change_devices))
        .routes(routes!(bulk::delete_devices))
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
        .routes(routes!(projects::change_project, projects::replace_project))
        .routes(routes!(dead_letters::retry_dead_letter))
        .routes(routes!(device::enroll_device))
        .routes(routes!(device::create_nonce))
        .routes(routes!(device::renew_credentials))
}
