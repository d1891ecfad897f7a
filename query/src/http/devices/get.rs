//! `GET /devices/{device}` and `GET /devices/{device}/config`.

use axum::extract::State;
use axum::response::IntoResponse;
use muster_api::auth::ReadDevices;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Json, MinPosition, PathParam, Problem, Query, Scope, etag, position_header};
use muster_api_types::devices::{Config, DeviceDetail};
use muster_api_types::schema;
use muster_schemas::{DeviceId, Position, ProjectId, Timestamp};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::at_position;
use super::names::set_names;
use super::resolve::{Key, unknown};
use super::view::Live;
use crate::http::examples;
use crate::projections::devices::{Device, TABLE};
use crate::state::{QueryState, sql_problem};

/// Parameters of the request.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetDevice {
    /// State at this position of the log; not with `at`.
    #[param(minimum = 0, value_type = Option<u64>)]
    position: Option<Position>,
    /// State at this time; not with `position`.
    #[param(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
}

/// Get a device
///
/// The current state, or the state at a position or time: then without `metrics`, and with a
/// `last_seen_at` that includes only what is in the log.
#[utoipa::path(
    get, path = "/api/v1/devices/{device}", tag = "devices", security(("bearer" = [])),
    params(
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        GetDevice, ProjectParam, MinPositionParam,
    ),
    responses(
        (status = 200, description = "The device", body = DeviceDetail,
            headers(
                ("ETag" = String, description = "Version of its settings, for `If-Match`"),
                ("Muster-Position" = u64, description = "The position that the response shows"),
            ),
            example = json!(examples::device_detail())),
        ReadProblems,
    )
)]
pub(crate) async fn get_device(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    PathParam(text): PathParam<String>,
    Query(query): Query<GetDevice>,
) -> Result<impl IntoResponse, Problem> {
    let project = &scope.project;
    let moment = at_position::requested_position(&state, project, query.position, query.at).await?;
    let (id, device, position) = if let Some(position) = moment {
        let (id, device) = at_position::device(&state, project, &text, position).await?;
        (id, device, position)
    } else {
        let progress = &state.read_models.devices;
        min_position.wait(state.log(), progress, project).await?;
        let position = progress.position(project);
        let (id, device) = find(&state, project, &text).await?;
        (id, device, position)
    };
    let live = Live {
        latest: moment.is_none().then_some(&state.latest),
        project,
        now: std::time::SystemTime::now().into(),
    };
    let headers = [etag(device.version), position_header(position)];
    let mut detail = live.detail(id, device);
    let pending = detail.pending_enrollment.as_mut();
    let same_machine = pending.and_then(|pending| pending.same_machine.as_mut());
    set_names(&state, project, same_machine.into_iter().collect()).await?;
    Ok((headers, Json(detail)))
}

/// Get the config variables of a device
///
/// What was set, and what the device has applied of it.
#[utoipa::path(
    get, path = "/api/v1/devices/{device}/config", tag = "devices", security(("bearer" = [])),
    params(
        ("device" = String, Path, description = "The device's id or name", example = "robot-7"),
        ProjectParam, MinPositionParam,
    ),
    responses(
        (status = 200, description = "The config variables", body = Config,
            headers(("ETag" = String, description = "Version of the device's settings, for `If-Match`")),
            example = json!(examples::device_detail()["config"])),
        ReadProblems,
    )
)]
pub(crate) async fn get_device_config(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    PathParam(text): PathParam<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<impl IntoResponse, Problem> {
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.devices, project).await?;
    let (_, device) = find(&state, project, &text).await?;
    Ok(([etag(device.version)], Json(device.config)))
}

/// Reads the row of the device in a path, with one query.
async fn find(
    state: &QueryState,
    project: &ProjectId,
    text: &str,
) -> Result<(DeviceId, Device), Problem> {
    let key = Key::parse(text).ok_or_else(|| unknown(project, text))?;
    let sql =
        format!("SELECT device, state FROM {TABLE} WHERE project = $1 AND {}", key.condition());
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(project.as_str());
    let query = match &key {
        Key::Id(id) => query.bind(id.0),
        Key::Name(name) => query.bind(name.as_str()),
    };
    let found: Option<(Uuid, String)> =
        query.fetch_optional(state.sql()).await.map_err(sql_problem)?;
    let (id, row) = found.ok_or_else(|| unknown(project, text))?;
    let device = serde_json::from_str(&row).map_err(|error| Problem::internal(&error))?;
    Ok((DeviceId(id), device))
}
