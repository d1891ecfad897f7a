//! `muster metrics`: a table and a sparkline of what a device measured.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::client::{Connection, segment};
use crate::output::{self, line, pairs, sparkline, table, text};

#[derive(Args, Debug)]
pub(crate) struct MetricsArgs {
    /// Name or id
    device: String,
    /// Measurement and field, such as cpu.usage_user; without it, what there is
    field: Option<String>,
    /// How far back: 90s, 10m, 1h, 7d
    #[arg(long, default_value = "1h")]
    since: String,
    /// The length of a step: 10s, 1m, 1h
    #[arg(long)]
    step: Option<String>,
    /// mean, min, max, sum, count, last or p95 of each step
    #[arg(long = "fn", value_name = "FUNCTION")]
    function: Option<String>,
    /// One series for each value of this tag
    #[arg(long)]
    group_by: Option<String>,
    /// Only points with this tag: key=value
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<String>,
}

pub(crate) async fn run(connection: Connection, args: MetricsArgs) -> Result<()> {
    let client = connection.client()?;
    let path = format!("/api/v1/devices/{}/metrics", segment(&args.device));
    let Some(field) = args.field else {
        let fields = client.get(&format!("{path}/fields"), &[]).await?;
        if connection.json {
            return output::json(&fields);
        }
        return print_fields(&fields);
    };
    let mut query = vec![("field", field), ("since", args.since)];
    for (name, value) in [("step", args.step), ("fn", args.function), ("group_by", args.group_by)] {
        query.extend(value.map(|value| (name, value)));
    }
    let tags: Vec<(String, String)> = args
        .tags
        .iter()
        .map(|tag| {
            let (key, value) =
                tag.split_once('=').with_context(|| format!("'{tag}' is not key=value"))?;
            Ok((format!("tag.{key}"), value.to_owned()))
        })
        .collect::<Result<_>>()?;
    query.extend(tags.iter().map(|(key, value)| (key.as_str(), value.clone())));
    let answer = client.get(&path, &query).await?;
    if connection.json {
        return output::json(&answer);
    }
    print(&answer);
    Ok(())
}

fn print_fields(fields: &Value) -> Result<()> {
    let items = fields["items"].as_array().cloned().unwrap_or_default();
    let names = |value: &Value, key: &str| {
        value[key]
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| if item.is_string() { text(item) } else { text(&item["name"]) })
            .collect::<Vec<_>>()
            .join(" ")
    };
    let rows = items
        .iter()
        .map(|item| vec![text(&item["measurement"]), names(item, "fields"), names(item, "tags")])
        .collect();
    table(&["measurement", "fields", "tags"], rows, "this device has no metrics yet");
    Ok(())
}

fn print(answer: &Value) {
    let series = answer["series"].as_array().cloned().unwrap_or_default();
    if series.is_empty() {
        line("no values in this time; `muster metrics DEVICE` shows what there is");
    }
    for one in &series {
        let tags = pairs(&one["tags"]);
        let points = one["points"].as_array().cloned().unwrap_or_default();
        let values: Vec<Option<f64>> = points.iter().map(|point| point["value"].as_f64()).collect();
        let rows = points
            .iter()
            .filter(|point| !point["value"].is_null())
            .map(|point| {
                let value = point["value"]
                    .as_f64()
                    .map_or_else(|| text(&point["value"]), |value| format!("{value:.2}"));
                vec![text(&point["time"]), value]
            })
            .collect();
        if !tags.is_empty() {
            line(&tags);
        }
        table(&["time", "value"], rows, "no values in this time");
        let known: Vec<f64> = values.iter().flatten().copied().collect();
        if let (Some(low), Some(high)) =
            (known.iter().copied().reduce(f64::min), known.iter().copied().reduce(f64::max))
        {
            line(format!("{}  {low:.2} … {high:.2}", sparkline(&values)));
        }
    }
}
