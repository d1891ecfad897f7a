//! `GET /devices/{device}/metrics/latest`: the newest metrics, from memory.

use std::time::{Duration, SystemTime};

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
use crate::latest;
use crate::state::QueryState;

/// Get the newest metrics of a device
///
/// The newest value of each series, independent of the interval at which the device reports it. A value is
/// stale when it is older than three intervals: the interval is the observed time between two
/// reports, at least 10 s and at most an hour, and 5 min until a value was reported twice.
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
    let now = SystemTime::now().into();
    let (points, dropped_value_count) = state.latest.points(project, device, now);
    Ok(Json(Latest {
        last_seen_at: state.latest.last_seen(project, device),
        summary: state.latest.summary(project, device, now),
        points: points.into_iter().map(view).collect(),
        dropped_value_count,
    }))
}

fn view(point: latest::LatestPoint) -> LatestPoint {
    // Milliseconds: more would suggest an accuracy that clocks do not have.
    let seconds = |duration: Duration| (duration.as_secs_f64() * 1e3).round() / 1e3;
    let fields = point.fields.into_iter();
    LatestPoint {
        measurement: point.measurement.to_string(),
        tags: point.tags.into_iter().map(|(key, value)| (key.to_string(), value)).collect(),
        fields: fields.map(|(key, value)| (key.to_string(), json(value))).collect(),
        time: point.time,
        age_seconds: seconds(point.age),
        interval_seconds: point.interval.map(seconds),
        stale: point.is_stale,
    }
}

fn json(value: FieldValue) -> serde_json::Value {
    match value {
        FieldValue::Float(number) => number.into(),
        FieldValue::Int(number) => number.into(),
        FieldValue::Bool(truth) => truth.into(),
        FieldValue::Text(text) => text.into(),
    }
}
