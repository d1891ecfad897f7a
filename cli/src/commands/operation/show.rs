//! Prints operations and runs as tables and facts.

use anyhow::Result;
use serde_json::{Value, json};

use super::api::{OPERATIONS, device_of, path};
use crate::client::{Client, segment};
use crate::output::{self, ago, facts, line, note, table, text};

/// Describes the action in one line.
pub(super) fn action(action: &Value) -> String {
    match action["kind"].as_str().unwrap_or_default() {
        "exec" => match (&action["program"]["argv"], &action["program"]["shell"]) {
            (Value::Array(argv), _) => {
                argv.iter().map(|word| quoted(&text(word))).collect::<Vec<_>>().join(" ")
            }
            (_, shell) => text(shell),
        },
        "upload" => format!("upload {}", quoted(&text(&action["path"]))),
        "log_level" => format!("log level {}", text(&action["level"])),
        other => other.replace('_', " "),
    }
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Formats the counts, such as `3 running, 10 succeeded`.
pub(super) fn states(runs: &Value) -> String {
    let Some(runs) = runs.as_object() else { return String::new() };
    runs.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}

fn truncate(text: &str, width: usize) -> String {
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() <= width && first.len() == text.len() {
        return text.to_owned();
    }
    first.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

pub(super) async fn list(
    client: &Client,
    device: Option<String>,
    limit: Option<u16>,
    json: bool,
) -> Result<()> {
    let query: Vec<_> = device.map(|device| ("device", device)).into_iter().collect();
    let items = client.newest(OPERATIONS, &query, limit).await?;
    if json {
        return output::json(&items);
    }
    let rows = items.iter().map(|one| {
        vec![
            text(&one["id"]),
            ago(&one["requested_at"]),
            text(&one["status"]),
            states(&one["runs"]),
            truncate(&text(&one["target"]), 30),
            truncate(&action(&one["action"]), 50),
        ]
    });
    table(
        &["id", "requested", "status", "runs", "target", "action"],
        rows.collect(),
        "no operations; muster exec DEVICE -- PROGRAM starts one",
    );
    Ok(())
}

pub(super) async fn one(client: &Client, id: &str, json: bool) -> Result<()> {
    let found = client.get(&path(id), &[]).await?;
    if json {
        return output::json(&found);
    }
    let stop = found["stop_after"].as_u64().map(|n| format!("{n} that did not succeed"));
    facts(&[
        ("id", text(&found["id"])),
        ("status", text(&found["status"])),
        ("action", action(&found["action"])),
        ("user", text(&found["action"]["user"])),
        ("folder", text(&found["action"]["cwd"])),
        ("target", text(&found["target"])),
        ("requested by", text(&found["actor"])),
        ("requested at", text(&found["requested_at"])),
        ("expires at", text(&found["expires_at"])),
        (
            "runs",
            format!(
                "{} of {} ended: {}",
                found["finished"],
                found["devices"],
                states(&found["runs"])
            ),
        ),
        ("concurrency", text(&found["at_once"])),
        ("stops after", stop.unwrap_or_default()),
    ]);
    summary(&found);
    Ok(())
}

/// Prints failures grouped by reason, and the slowest runs.
pub(super) fn summary(found: &Value) {
    let failures = found["failures"].as_array().cloned().unwrap_or_default();
    if !failures.is_empty() {
        line("");
        let rows = failures.iter().map(|one| {
            let devices: Vec<String> =
                one["devices"].as_array().into_iter().flatten().map(text).collect();
            let more = one["count"].as_u64().unwrap_or(0) > devices.len() as u64;
            let devices = devices.join(", ") + if more { ", …" } else { "" };
            vec![text(&one["count"]), text(&one["reason"]), devices]
        });
        table(&["runs", "did not succeed", "devices"], rows.collect(), "");
    }
    let slowest = found["slowest"].as_array().cloned().unwrap_or_default();
    if found["devices"].as_u64().unwrap_or(0) > 1 && !slowest.is_empty() {
        line("");
        let rows =
            slowest.iter().map(|one| vec![text(&one["device"]), duration(&one["duration_ms"])]);
        table(&["slowest", "took"], rows.collect(), "");
    }
}

/// Formats milliseconds.
pub(super) fn duration(millis: &Value) -> String {
    match millis.as_u64() {
        None => String::new(),
        Some(ms @ 0..=999) => format!("{ms} ms"),
        Some(ms @ 1_000..=119_999) => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        Some(ms) => format!("{} min", ms / 60_000),
    }
}

pub(super) async fn runs(
    client: &Client,
    id: &str,
    state: Option<String>,
    json: bool,
) -> Result<()> {
    let query: Vec<(&str, String)> = state.map(|state| ("state", state)).into_iter().collect();
    let found = client.list(&format!("{}/runs", path(id)), &query).await?;
    if json {
        return output::json(&found);
    }
    let rows = found.iter().map(|run| {
        let exit = match (&run["exit_code"], &run["signal"]) {
            (_, Value::Number(signal)) => format!("signal {signal}"),
            (code, _) => text(code),
        };
        vec![
            device_of(run),
            text(&run["state"]),
            exit,
            duration(&run["duration_ms"]),
            text(&run["stdout"]["bytes"]),
            text(&run["stderr"]["bytes"]),
            truncate(&text(&run["reason"]), 60),
        ]
    });
    let header = ["device", "state", "exit", "took", "stdout", "stderr", "reason"];
    table(&header, rows.collect(), "no run is in that state");
    Ok(())
}

pub(super) async fn explain(
    client: &Client,
    id: &str,
    device: Option<String>,
    json: bool,
) -> Result<()> {
    const NOT_SUCCEEDED: &str =
        "requested,dispatched,accepted,failed,timed_out,canceled,expired,rejected,unknown";
    /// Maximum number of runs that are explained individually.
    const MAX_EXPLAINED: usize = 50;
    let devices = match device {
        Some(device) => vec![device],
        None => {
            let query = [("state", NOT_SUCCEEDED.to_owned())];
            let found = client.list(&format!("{}/runs", path(id)), &query).await?;
            found.iter().map(|run| text(&run["device"])).collect()
        }
    };
    let mut explained = Vec::new();
    for device in devices.iter().take(MAX_EXPLAINED) {
        let run = client.get(&format!("{}/runs/{}", path(id), segment(device)), &[]).await?;
        explained.push(run);
    }
    if devices.len() > MAX_EXPLAINED {
        note(format!("showing {MAX_EXPLAINED} of {}; name a device to see another", devices.len()));
    }
    if json {
        let items: Vec<Value> = explained
            .iter()
            .map(|run| {
                json!({"device": run["device"], "name": run["name"], "state": run["state"],
                       "explanation": run["explanation"]})
            })
            .collect();
        return output::json(&items);
    }
    if explained.is_empty() {
        line("all runs have succeeded or are running");
    }
    for run in &explained {
        line(format!("{}: {}", device_of(run), text(&run["state"])));
        line(format!("  {}", text(&run["explanation"])));
    }
    Ok(())
}
