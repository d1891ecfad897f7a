//! `GET /devices/{device}/metrics/latest`: the newest metrics, from memory.

use axum::extract::State;
use muster_api::auth::ReadDevices;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::problem::ReadProblems;
use muster_api::{Json, PathParam, Problem, Query, Scope};
use muster_api_types::metrics::{Latest, LatestPoint};
use muster_api_types::schema;
use muster_schemas::metrics::FieldValue;

use crate::http::devices::resolve;
use crate::http::examples;
use crate::latest::LatestGroup;
use crate::state::QueryState;

/// Get the newest metrics of a device
///
/// The newest points of each group of metrics, from the memory of the server: each has its time,
/// and there are none until the device sends some. For earlier ones, query a field over time.
#[utoipa::path(
    get, path = "/api/v1/devices/{device}/metrics/latest", tag = "metrics",
    security(("bearer" = [])),
    params(
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        ProjectParam,
    ),
    responses(
        (status = 200, description = "The newest metrics", body = Latest,
            example = json!(examples::latest())),
        ReadProblems,
    )
)]
pub(crate) async fn get_latest_metrics(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    PathParam(device): PathParam<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Json<Latest>, Problem> {
    let project = &scope.project;
    let device = resolve(&state, project, &device).await?;
    Ok(Json(Latest {
        last_seen_at: state.latest.last_seen(project, device),
        summary: state.latest.summary(project, device),
        points: state.latest.groups(project, device).into_iter().flat_map(points).collect(),
    }))
}

fn points(latest: LatestGroup) -> Vec<LatestPoint> {
    let LatestGroup { group, batch, .. } = latest;
    batch
        .points
        .into_iter()
        .map(|point| LatestPoint {
            measurement: point.measurement.to_string(),
            tags: point.tags.into_iter().map(|(key, value)| (key.to_string(), value)).collect(),
            fields: point
                .fields
                .into_iter()
                .map(|(key, value)| (key.to_string(), json(value)))
                .collect(),
            time: batch.time.plus_micros(point.offset),
            group: group.clone(),
        })
        .collect()
}

fn json(value: FieldValue) -> serde_json::Value {
    match value {
        FieldValue::Float(number) => number.into(),
        FieldValue::Int(number) => number.into(),
        FieldValue::Bool(truth) => truth.into(),
        FieldValue::Text(text) => text.into(),
    }
}
