//! `GET /devices/{device}/metrics/fields`: the available measurements and fields.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use muster_api::auth::ReadDevices;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::problem::ReadProblems;
use muster_api::{Json, PathParam, Problem, Query, Scope};
use muster_api_types::metrics::Measurement;
use muster_api_types::schema;
use muster_api_types::{MeasurementPage, Page};
use muster_metric_store::Row;

use super::OWN_TAGS;
use super::problem::problem;
use crate::http::devices::resolve;
use crate::influx;
use crate::state::QueryState;

/// List the measurements of a device with their fields and tags
///
/// The names for `field` and the tags of `GET /devices/{device}/metrics`. A device that has sent
/// no metrics within the retention has no items.
#[utoipa::path(
    get, path = "/api/v1/devices/{device}/metrics/fields", tag = "metrics",
    security(("bearer" = [])),
    params(
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        ProjectParam,
    ),
    responses(
        (status = 200, description = "All measurements, in one page", body = MeasurementPage,
            example = json!({
                "items": [{"name": "cpu", "fields": {"usage_user": "float"}, "tags": ["cpu"]}]
            })),
        ReadProblems,
    )
)]
pub(crate) async fn list_metric_fields(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    PathParam(device): PathParam<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Json<Page<Measurement>>, Problem> {
    let project = &scope.project;
    let device = resolve(&state, project, &device).await?;
    let places = state.influx.buckets(project).await.map_err(problem)?;
    let show =
        async |query: String| state.influx.query_buckets(&places, &query).await.map_err(problem);
    let names: BTreeSet<String> = show(influx::measurements(project, device))
        .await?
        .iter()
        .flat_map(|row| &row.values)
        .filter_map(|value| Some(value.first()?.as_str()?.to_owned()))
        .collect();
    if names.is_empty() {
        let items = Vec::new();
        return Ok(Json(Page { items, next: None }));
    }
    let names: Vec<String> = names.into_iter().collect();
    let fields = match influx::field_keys(&places, &names) {
        Some(query) => state.influx.query(&query).await.map_err(problem)?,
        None => Vec::new(),
    };
    let tags = show(influx::tag_keys(project, device, &names)).await?;
    let items = merge(fields, tags);
    Ok(Json(Page { items, next: None }))
}

/// Merges the two results by measurement.
fn merge(fields: Vec<Row>, tags: Vec<Row>) -> Vec<Measurement> {
    let mut found: BTreeMap<String, Measurement> = BTreeMap::new();
    let text =
        |value: &[serde_json::Value], index: usize| Some(value.get(index)?.as_str()?.to_owned());
    for row in fields {
        let entry = found.entry(row.name).or_default();
        let pairs = row.values.iter();
        entry.fields.extend(pairs.filter_map(|value| Some((text(value, 0)?, text(value, 1)?))));
    }
    for row in tags {
        let entry = found.entry(row.name).or_default();
        let names = row.values.iter().filter_map(|value| text(value, 0));
        entry.tags.extend(names.filter(|tag| !OWN_TAGS.contains(&tag.as_str())));
        // Several buckets may have the measurement.
        entry.tags.sort();
        entry.tags.dedup();
    }
    found.into_iter().map(|(name, measurement)| Measurement { name, ..measurement }).collect()
}
