//! `muster metrics`: prints devices' metrics as values and sparklines.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use muster_api_types::Page;
use muster_api_types::metrics::{self as api, Measurement, MetricSeries};
use muster_client::{Client, Received};
use muster_schemas::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::target::{NamedDevice, Selected, Target};
use crate::connection::Connection;
use crate::exit::UsageError;
use crate::output::{self, line, pairs, sparkline, table, text};

/// Maximum width of a sparkline.
const MAX_WIDTH: usize = 120;
/// Width of a sparkline when there are several.
const NARROW_WIDTH: usize = 40;

#[derive(Args, Debug)]
pub(crate) struct MetricsArgs {
    /// Names or ids (a,b), or a selector such as env=prod
    device: Option<String>,
    /// Measurement and field, such as cpu.usage_user; default: list them
    field: Option<String>,
    #[command(flatten)]
    selected: Selected,
    /// Length of the time range up to now: 90s, 10m, 1h, 7d
    #[arg(long, default_value = "1h")]
    since: String,
    /// Length of an aggregation step: 10s, 1m, 1h
    #[arg(long)]
    step: Option<String>,
    /// Aggregate of each step: mean, min, max, sum, count, last or p95
    #[arg(long = "fn", value_name = "FUNCTION")]
    function: Option<String>,
    /// Tag by whose values series are grouped
    #[arg(long)]
    group_by: Option<String>,
    /// Only points with this tag: key=value
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<String>,
    /// Print all points of all series instead of one line per series
    #[arg(long)]
    points: bool,
}

pub(crate) async fn run(connection: Connection, args: MetricsArgs) -> Result<()> {
    let mut rest = args.field.into_iter().collect();
    let target = args.selected.target(args.device, &mut rest)?;
    if let [_, more, ..] = rest.as_slice() {
        return Err(UsageError(format!("'{more}' is one field too many")).into());
    }
    let client = connection.client()?;
    let devices = match &target {
        Target::One(name) => vec![NamedDevice { key: name.clone(), name: name.clone() }],
        Target::Named(_) | Target::Matching(_) => target.find(&client).await?,
    };
    let Some(field) = rest.pop() else {
        let fields = query_devices::<Page<Measurement>>(&client, &devices, "/fields", &[]).await?;
        if connection.json {
            return print_json(&target, &fields);
        }
        for (device, response) in &fields {
            if fields.len() > 1 {
                line(format!("{}:", device.name));
            }
            print_fields(&response.items);
        }
        return Ok(());
    };
    let mut query = vec![("field".to_owned(), field), ("since".to_owned(), args.since)];
    for (name, value) in [("step", args.step), ("fn", args.function), ("group_by", args.group_by)] {
        query.extend(value.map(|value| (name.to_owned(), value)));
    }
    for tag in &args.tags {
        let (key, value) =
            tag.split_once('=').with_context(|| format!("'{tag}' is not key=value"))?;
        query.push((format!("tag.{key}"), value.to_owned()));
    }
    let query: Vec<(&str, String)> =
        query.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let responses = query_devices(&client, &devices, "", &query).await?;
    if connection.json {
        return print_json(&target, &responses);
    }
    print(&responses, args.points);
    Ok(())
}

/// Returns the API's response for each device.
async fn query_devices<'a, T: DeserializeOwned>(
    client: &Client,
    devices: &'a [NamedDevice],
    path: &str,
    query: &[(&str, String)],
) -> Result<Vec<(&'a NamedDevice, Received<T>)>> {
    let mut responses = Vec::with_capacity(devices.len());
    for device in devices {
        let path = format!("{}/metrics{path}", device.path());
        responses.push((device, client.get(&path, query).await?));
    }
    Ok(responses)
}

/// Prints one device's response unchanged; those of several devices as a list with their names.
fn print_json<T>(target: &Target, responses: &[(&NamedDevice, Received<T>)]) -> Result<()> {
    if let (Target::One(_), [(_, response)]) = (target, responses) {
        return output::json(response);
    }
    let with_device = |(device, response): &(&NamedDevice, Received<T>)| {
        response.with_field("device", json!({"id": device.key, "name": device.name}))
    };
    output::json(&responses.iter().map(with_device).collect::<Vec<_>>())
}

/// Prints one row per field, with the name to query it by.
fn print_fields(measurements: &[Measurement]) {
    table(&["field", "type", "tags"], field_rows(measurements), "this device has no metrics yet");
}

fn field_rows(measurements: &[Measurement]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for Measurement { name, fields, tags } in measurements {
        for (field, kind) in fields {
            rows.push(vec![format!("{name}.{field}"), text(kind), tags.join(" ")]);
        }
    }
    rows
}

/// A series to print.
struct Series {
    /// Device and tags, when there are several series.
    title: String,
    points: Vec<(Timestamp, Value)>,
    /// Start of the queried range and its length, in microseconds.
    from: i64,
    span: i64,
    step: i64,
}

impl Series {
    /// Parses all series of a response.
    fn from_response(response: &MetricSeries, owner: &str) -> Vec<Self> {
        let (from, to) = (response.from.micros(), response.to.micros());
        let step = Duration::try_from_secs_f64(response.step_seconds).unwrap_or_default();
        let series = |one: &api::Series| {
            let points = one.points.iter().filter(|point| !point.value.is_null());
            let points = points.map(|point| (point.time, point.value.clone())).collect();
            let tags = pairs(&one.tags);
            let title = [owner, tags.as_str()].join(if owner.is_empty() { "" } else { "  " });
            let title = title.trim().to_owned();
            Self {
                title,
                points,
                from,
                span: (to - from).max(1),
                step: i64::try_from(step.as_micros()).unwrap_or(i64::MAX).max(1),
            }
        };
        response.series.iter().map(series).collect()
    }

    fn numbers(&self) -> Vec<f64> {
        self.points.iter().filter_map(|(_, value)| value.as_f64()).collect()
    }

    /// Returns the typical interval between two points, in microseconds.
    fn cadence(&self) -> i64 {
        let mut apart: Vec<i64> = self
            .points
            .windows(2)
            .filter_map(|pair| Some(pair.last()?.0.micros() - pair.first()?.0.micros()))
            .collect();
        apart.sort_unstable();
        apart.get(apart.len().saturating_sub(1) / 2).copied().unwrap_or(0).max(self.step)
    }

    /// Draws each point at its time, as the mean of the points in a column. A value is drawn until
    /// the next point is due; a missing point leaves a gap.
    fn sparkline(&self, width: usize) -> String {
        // The first step may start before the queried range.
        let begin = self.from.div_euclid(self.step) * self.step;
        let end = self.from + self.span;
        let steps = (end - begin).div_euclid(self.step) + 1;
        let columns = steps.clamp(1, i64::try_from(width).unwrap_or(i64::MAX));
        let mut places = vec![(0.0, 0_u32); usize::try_from(columns).unwrap_or(1)];
        for (time, value) in &self.points {
            let step = (time.micros() - begin).div_euclid(self.step).clamp(0, steps - 1);
            let column = usize::try_from(step * columns / steps).ok();
            if let Some((sum, count)) = column.and_then(|column| places.get_mut(column))
                && let Some(value) = value.as_f64()
            {
                *sum += value;
                *count += 1;
            }
        }
        // Points are not exactly periodic: allow slightly more than the cadence for shorter steps.
        let cadence = self.cadence();
        let due_within = cadence + (cadence / 4).min(cadence - self.step);
        let mut means = Vec::with_capacity(places.len());
        let mut before: Option<(i64, f64)> = None;
        for (column, (sum, count)) in (0_i64..).zip(places) {
            let time = begin + column * steps / columns * self.step;
            if count > 0 {
                before = Some((time, sum / f64::from(count)));
            }
            means.push(before.filter(|(at, _)| time < at + due_within).map(|(_, mean)| mean));
        }
        sparkline(&means)
    }

    /// Returns the last, minimum, mean and maximum value, and the sparkline.
    fn row(&self) -> Vec<String> {
        let numbers = self.numbers();
        let last = self.points.last().map(|(_, value)| show(value)).unwrap_or_default();
        let figure = |value: Option<f64>| value.map(|it| format!("{it:.2}")).unwrap_or_default();
        let count = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        let mean = (count > 0).then(|| numbers.iter().sum::<f64>() / f64::from(count));
        vec![
            self.title.clone(),
            last,
            figure(numbers.iter().copied().reduce(f64::min)),
            figure(mean),
            figure(numbers.iter().copied().reduce(f64::max)),
            self.sparkline(NARROW_WIDTH),
        ]
    }

    fn print_points(&self) {
        if !self.title.is_empty() {
            line(&self.title);
        }
        let rows = self.points.iter().map(|(time, value)| vec![time.to_string(), show(value)]);
        table(&["time", "value"], rows.collect(), "no values in this time range");
        let numbers = self.numbers();
        if let (Some(low), Some(high)) =
            (numbers.iter().copied().reduce(f64::min), numbers.iter().copied().reduce(f64::max))
        {
            line(format!("{}  {low:.2} … {high:.2}", self.sparkline(MAX_WIDTH)));
        }
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(value) => text(value),
        value => value.as_f64().map_or_else(|| value.to_string(), |value| format!("{value:.2}")),
    }
}

fn print(responses: &[(&NamedDevice, Received<MetricSeries>)], all_points: bool) {
    let has_several = responses.len() > 1;
    let series: Vec<Series> = responses
        .iter()
        .flat_map(|(device, response)| {
            Series::from_response(response, if has_several { &device.name } else { "" })
        })
        .collect();
    if series.is_empty() {
        line("no values in this time; `muster metrics DEVICE` lists the fields");
    } else if series.len() == 1 || all_points {
        for one in &series {
            one.print_points();
        }
    } else {
        let rows = series.iter().map(Series::row).collect();
        table(&["series", "last", "min", "mean", "max", ""], rows, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(points: &[(u32, f64)], step_seconds: u32) -> MetricSeries {
        let time = |second: u32| format!("2026-11-23T08:00:{second:02}Z");
        let points: Vec<Value> = points
            .iter()
            .map(|(second, value)| json!({"time": time(*second), "value": value}))
            .collect();
        let response = json!({
            "field": "cpu.usage_user", "function": "mean",
            "from": time(5), "to": time(45), "step_seconds": step_seconds,
            "series": [{"tags": {"cpu": "cpu0"}, "points": points}],
        });
        serde_json::from_value(response).unwrap()
    }

    #[test]
    fn a_gap_in_time_is_a_gap_in_the_sparkline() {
        let response = response(&[(0, 0.0), (10, 1.0), (40, 2.0)], 10);
        let series = Series::from_response(&response, "");
        assert_eq!(series[0].sparkline(MAX_WIDTH), "▁▅  █");
        // Two steps share a column, which shows their mean.
        assert_eq!(series[0].sparkline(3), "▁ █");
    }

    #[test]
    fn a_value_is_drawn_until_the_next_point_is_due() {
        let response = response(&[(10, 0.0), (20, 1.0), (40, 2.0)], 5);
        // From 5 to 45 s, in steps of 5 s: the point due at 30 s is missing.
        assert_eq!(Series::from_response(&response, "")[0].sparkline(MAX_WIDTH), " ▁▁▅▅▅ ██");
    }

    #[test]
    fn fields_are_listed_by_their_query_names() {
        let measurement = Measurement {
            name: "cpu".to_owned(),
            fields: [("usage_user".to_owned(), "float".to_owned())].into(),
            tags: vec!["cpu".to_owned()],
        };
        assert_eq!(field_rows(&[measurement]), [["cpu.usage_user", "float", "cpu"]]);
    }

    #[test]
    fn a_series_is_printed_as_one_row() {
        let response = response(&[(10, 1.0), (20, 2.0), (30, 6.0)], 10);
        let row = Series::from_response(&response, "vm").remove(0).row();
        assert_eq!(row[..5], ["vm  cpu=cpu0", "6.00", "1.00", "3.00", "6.00"]);
    }
}
