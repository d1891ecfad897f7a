//! The read API: routes, and the OpenAPI document that describes them.
//!
//! A handler authorizes the request, parses its parameters, reads a read model or the log, and
//! responds. The responses' types are in `muster-api-types`; `view.rs` creates the large ones from
//! read models. The command role has the writes.

mod dead_letters;
mod degraded;
mod devices;
mod events;
mod examples;
mod fleet;
mod health;
mod keyset;
mod log;
mod metrics;
mod operations;
mod projects;
mod sessions;
mod sse;
mod tokens;
mod uploads;
mod whoami;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use muster_api::auth::end_with_token;
use muster_api::conditional;
use muster_api_types::device_stream::DeviceStreamMessage;
use muster_api_types::events::StreamEnd;
use muster_api_types::problems::{FieldError, ProblemDocument};
use muster_api_types::schema::DeviceKey;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use devices::select_devices;

use crate::state::QueryState;

/// General part of the OpenAPI document; the operations of both roles are merged into it.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "muster",
        description = "Manages fleets of Linux devices. Lists return `items` and `next`; errors are \
            problem documents (RFC 9457); a write returns the resource as it now is, and \
            `Muster-Position`, for which a read can wait with `Muster-Min-Position`. A write with \
            `Prefer: respond-async` returns 202 and does not wait. While the server cannot write something, responses \
            to reads have the header `Muster-Degraded`: what it cannot write, since when and why.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/", description = "The server that this document comes from")),
    components(schemas(
        ProblemDocument, FieldError, DeviceKey, DeviceStreamMessage, StreamEnd
    )),
    modifiers(&BearerTokens),
    tags(
        (name = "projects", description = "Projects: each has its own devices, tokens and log"),
        (name = "devices", description = "Devices: their current and their earlier state"),
        (name = "operations", description = "Operations on devices, and their runs on each device"),
        (name = "uploads", description = "Files that were pulled from devices and stored here"),
        (name = "sessions", description = "Shells on devices, and connections from them"),
        (name = "metrics", description = "Metrics of devices"),
        (name = "events", description = "The event log"),
        (name = "tokens", description = "Enrollment tokens and API tokens"),
        (name = "device", description = "Requests of devices: enrollment and broker credentials"),
        (name = "server", description = "The server itself")
    )
)]
struct Info;

struct BearerTokens;

impl utoipa::Modify for BearerTokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API token: `mst_…`"))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// Returns the document without operations: title, tags, security scheme, problems.
#[must_use]
pub fn openapi_info() -> utoipa::openapi::OpenApi {
    Info::openapi()
}

/// Returns the read API. The caller, which knows the routes of both roles, adds `/openapi.json`,
/// `/docs` and the fallbacks ([`muster_api::fallback`]).
pub fn router(state: QueryState) -> OpenApiRouter {
    routes()
        .layer(from_fn_with_state(state.clone(), degraded::add_header))
        .layer(from_fn(conditional::revalidate))
        .layer(from_fn_with_state(state.api.clone(), end_with_token))
        .with_state(state)
}

/// Returns the query role's part of the OpenAPI document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = routes().into_openapi();
    events::schemas::add_to(&mut document);
    document
}

fn routes() -> OpenApiRouter<QueryState> {
    OpenApiRouter::with_openapi(openapi_info())
        .routes(routes!(devices::list::list_devices))
        .routes(routes!(devices::stream::stream_devices))
        .routes(routes!(devices::get::get_device))
        .routes(routes!(devices::get::get_device_config))
        .routes(routes!(events::list::list_device_events))
        .routes(routes!(operations::get::list_operations))
        .routes(routes!(operations::get::get_operation))
        .routes(routes!(operations::runs::list_runs))
        .routes(routes!(operations::runs::get_run))
        .routes(routes!(operations::output::get_run_output))
        .routes(routes!(uploads::list::list_uploads))
        .routes(routes!(uploads::list::get_upload))
        .routes(routes!(uploads::content::get_upload_content))
        .routes(routes!(uploads::download::download_file))
        .routes(routes!(sessions::list_sessions))
        .routes(routes!(sessions::get_session))
        .routes(routes!(sessions::get_session_recording))
        .routes(routes!(metrics::query::query_metrics))
        .routes(routes!(metrics::latest::get_latest_metrics))
        .routes(routes!(metrics::fields::list_metric_fields))
        .routes(routes!(events::list::list_events))
        .routes(routes!(events::stream::stream_events))
        .routes(routes!(events::list::get_event))
        .routes(routes!(fleet::get_fleet_summary))
        .routes(routes!(tokens::list_enrollment_tokens))
        .routes(routes!(tokens::get_enrollment_token))
        .routes(routes!(tokens::list_api_tokens))
        .routes(routes!(tokens::get_api_token))
        .routes(routes!(dead_letters::list_dead_letters))
        .routes(routes!(dead_letters::get_dead_letter))
        .routes(routes!(log::get_log_head))
        .routes(routes!(log::list_projections))
        .routes(routes!(projects::list_projects))
        .routes(routes!(projects::get_project))
        .routes(routes!(whoami::get_whoami))
        .routes(routes!(health::get_health))
        .routes(routes!(health::get_readiness))
        .layer(DefaultBodyLimit::max(64 * 1024))
}
