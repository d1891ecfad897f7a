//! `GET /devices/{device}/metrics`: one field over time.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use axum::extract::{RawQuery, State};
use muster_api::auth::ReadDevices;
use muster_api::params::{self, ProjectParam};
use muster_api::problem::ReadProblems;
use muster_api::{Json, PathParam, Problem, Scope};
use muster_api_types::metrics::{Function, MetricSeries, Series, SeriesPoint};
use muster_api_types::problems::ProblemDocument;
use muster_api_types::schema;
use muster_metric_store::Row;
use muster_schemas::{DeviceId, ProjectId, Timestamp};
use serde::Deserialize;
use utoipa::IntoParams;

use super::OWN_TAGS;
use super::problem::{problem, too_many_points, too_many_series};
use crate::http::devices::resolve;
use crate::http::examples;
use crate::influx::{self, MAX_SERIES, MetricBuckets, MetricQuery, Range};
use crate::state::QueryState;

/// Default range of a query.
const DEFAULT_RANGE: Duration = Duration::from_secs(3600);
/// Maximum number of tags to filter or group by.
const MAX_TAGS: usize = 32;
/// Maximum length of a name or value, in bytes.
const MAX_TEXT_BYTES: usize = 256;

/// Parameters of the query.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct QueryMetrics {
    /// Field: `<measurement>.<field>`.
    #[param(example = "cpu.usage_user")]
    field: String,
    /// Range up to `to`: `90s`, `5m`, `1h`, `7d`, `2w`; not with `from`. Default: one hour.
    #[param(example = "1h")]
    since: Option<String>,
    /// Start of the range.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// End of the range; default: now.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Interval between points: `10s`, `1m`, `1h` …; by default chosen for about 120 points.
    #[param(example = "1m")]
    step: Option<String>,
    /// Function that aggregates the values of a step.
    #[serde(rename = "fn", default)]
    #[param(inline, value_type = Option<Function>)]
    function: Function,
    /// Tags by which series are grouped, comma-separated; default: all tags; if empty: none.
    #[param(example = "cpu")]
    group_by: Option<String>,
}

/// Query a field of a device over time
///
/// `tag.<key>=<value>` selects only series with that tag, for example `tag.cpu=cpu-total`. A
/// response with more than 11,000 points or 1,000 series is refused; for too many points, the
/// problem suggests a larger step.
#[utoipa::path(
    get, path = "/api/v1/devices/{device}/metrics", tag = "metrics", security(("bearer" = [])),
    params(
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        QueryMetrics, ProjectParam,
    ),
    responses(
        (status = 200, description = "The series", body = MetricSeries,
            example = json!(examples::series())),
        (status = 422, description = "The response would be too large", body = ProblemDocument,
            content_type = "application/problem+json"),
        ReadProblems,
    )
)]
pub(crate) async fn query_metrics(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    PathParam(device): PathParam<String>,
    RawQuery(raw): RawQuery,
) -> Result<Json<MetricSeries>, Problem> {
    let (filters, rest) = split_filters(params::pairs(raw.as_deref().unwrap_or_default())?)?;
    let query: QueryMetrics = params::from_pairs(rest)?;
    let (measurement, field) = name(&query.field)?;
    let range = range(&query, Timestamp::from(SystemTime::now()))?;
    if let Some(step) = influx::too_many_points(&range, range.points()) {
        return Err(too_many_points(range.points(), step));
    }
    let project = &scope.project;
    let device = resolve(&state, project, &device).await?;
    let places = state.influx.buckets(project).await.map_err(problem)?;
    let group_by = match &query.group_by {
        Some(tags) => tag_list(tags)?,
        None => all_tags(&state, &places, project, device, measurement).await?,
    };
    let question = MetricQuery {
        project,
        device,
        buckets: &places,
        measurement,
        field,
        from: range.from,
        to: range.to,
        step: range.step,
        function: aggregate(query.function),
        group_by: &group_by,
        filters: &filters,
    };
    let mut rows = state.influx.query(&question.influxql()).await.map_err(problem)?;
    if rows.is_empty()
        && let Some(places) = places.own_only()
    {
        let question = MetricQuery { buckets: &places, ..question };
        rows = state.influx.query(&question.influxql()).await.map_err(problem)?;
    }
    let points: usize = rows.iter().map(|row| row.values.len()).sum();
    if rows.len() > MAX_SERIES {
        return Err(too_many_series(rows.len()));
    }
    if let Some(step) = influx::too_many_points(&range, points) {
        return Err(too_many_points(points, step));
    }
    Ok(Json(MetricSeries {
        series: rows.into_iter().map(series).collect(),
        field: query.field,
        function: query.function.into(),
        from: range.from,
        to: range.to,
        step_seconds: range.step.as_secs_f64(),
    }))
}

/// Returns the function of the metric store.
const fn aggregate(function: Function) -> influx::Function {
    match function {
        Function::Mean => influx::Function::Mean,
        Function::Min => influx::Function::Min,
        Function::Max => influx::Function::Max,
        Function::Last => influx::Function::Last,
        Function::P95 => influx::Function::P95,
        Function::Sum => influx::Function::Sum,
        Function::Count => influx::Function::Count,
    }
}

type Pairs = Vec<(String, String)>;

/// Splits `tag.<key>=<value>` from the other parameters.
fn split_filters(pairs: Pairs) -> Result<(Pairs, Pairs), Problem> {
    let (filters, rest): (Pairs, Pairs) =
        pairs.into_iter().partition(|(name, _)| name.starts_with("tag."));
    let filters: Pairs = filters
        .into_iter()
        .map(|(name, value)| (name.trim_start_matches("tag.").to_owned(), value))
        .collect();
    for (key, value) in &filters {
        check_text(&format!("tag.{key}"), key)?;
        check_text(&format!("tag.{key}"), value)?;
    }
    if filters.len() > MAX_TAGS {
        return Err(Problem::parameter(
            "tag",
            format!("is given more than {MAX_TAGS} times"),
            None,
        ));
    }
    Ok((filters, rest))
}

fn check_text(parameter: &str, text: &str) -> Result<(), Problem> {
    if text.is_empty() || text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        let rule = "is empty, longer than 256 bytes, or contains a control character";
        return Err(Problem::parameter(parameter, rule, Some(text.into())));
    }
    Ok(())
}

/// Splits a name: `cpu.usage_user` is the field `usage_user` of the measurement `cpu`.
fn name(text: &str) -> Result<(&str, &str), Problem> {
    check_text("field", text)?;
    text.split_once('.')
        .filter(|(measurement, field)| !measurement.is_empty() && !field.is_empty())
        .ok_or_else(|| {
            let rule = "is not <measurement>.<field>, for example cpu.usage_user";
            Problem::parameter("field", rule, Some(text.into()))
        })
}

fn duration(parameter: &str, text: &str) -> Result<Duration, Problem> {
    influx::parse_duration(text).ok_or_else(|| {
        let rule = "is not a duration such as 90s, 5m, 1h, 7d or 2w";
        Problem::parameter(parameter, rule, Some(text.into()))
    })
}

fn range(query: &QueryMetrics, now: Timestamp) -> Result<Range, Problem> {
    if query.since.is_some() && query.from.is_some() {
        return Err(Problem::parameter("since", "cannot be combined with from", None));
    }
    // Slightly after now: includes the newest point of a device whose clock is ahead.
    let to = query.to.unwrap_or(now + Duration::from_secs(1));
    let since = match &query.since {
        Some(text) => duration("since", text)?,
        None => DEFAULT_RANGE,
    };
    let from = query.from.unwrap_or_else(|| to - since);
    if from >= to {
        return Err(Problem::parameter("from", "is not before to", Some(from.to_string().into())));
    }
    // The range that InfluxDB can represent in nanoseconds.
    for (parameter, time) in [("from", from), ("to", to)] {
        if time.micros().checked_mul(1_000).is_none() {
            let rule = "is outside the years 1678 to 2261";
            return Err(Problem::parameter(parameter, rule, Some(time.to_string().into())));
        }
    }
    let step = query.step.as_deref().map(|text| duration("step", text)).transpose()?;
    Ok(Range::new(from, to, step))
}

fn tag_list(text: &str) -> Result<Vec<String>, Problem> {
    let tags: Vec<String> =
        text.split(',').map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect();
    for tag in &tags {
        check_text("group_by", tag)?;
    }
    if tags.len() > MAX_TAGS {
        return Err(Problem::parameter(
            "group_by",
            format!("names more than {MAX_TAGS} tags"),
            None,
        ));
    }
    Ok(tags)
}

/// Returns all tags that distinguish a device's series of one measurement.
async fn all_tags(
    state: &QueryState,
    buckets: &MetricBuckets,
    project: &ProjectId,
    device: DeviceId,
    measurement: &str,
) -> Result<Vec<String>, Problem> {
    let query = influx::tag_keys(project, device, &[measurement.to_owned()]);
    let rows = state.influx.query_buckets(buckets, &query).await.map_err(problem)?;
    let tags: BTreeSet<String> = rows
        .iter()
        .flat_map(|row| &row.values)
        .filter_map(|value| value.first()?.as_str())
        .filter(|tag| !OWN_TAGS.contains(tag))
        .map(str::to_owned)
        .collect();
    Ok(tags.into_iter().collect())
}

fn series(row: Row) -> Series {
    let points = row
        .values
        .into_iter()
        .filter_map(|value| {
            let mut value = value.into_iter();
            Some(SeriesPoint {
                time: Timestamp(value.next()?.as_i64()?),
                value: value.next().filter(|value| !value.is_null())?,
            })
        })
        .collect();
    let mut tags = row.tags;
    // A series without the tag has an empty value for it.
    tags.retain(|_, value| !value.is_empty());
    Series { tags, points }
}
