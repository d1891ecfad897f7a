//! Prints operations and runs as tables and facts.

use std::collections::BTreeMap;

use anyhow::Result;
use muster_api_types::Open;
use muster_api_types::operations::{OperationDetail, OperationView};
use muster_api_types::runs::RunView;
use muster_client::{Client, List, Received, segment};
use muster_schemas::events::{Action, Exec, Program};
use serde_json::json;

use super::api::{OPERATIONS, device_of, path};
use crate::commands::newest;
use crate::output::{self, ago, facts, line, note, optional, table, text};

/// Describes the action in one line.
pub(super) fn action(action: &Open<Action>) -> String {
    match action.known() {
        Some(Action::Exec(Exec { program: Program::Argv(argv), .. })) => {
            argv.iter().map(|word| quoted(&text(word))).collect::<Vec<_>>().join(" ")
        }
        Some(Action::Exec(Exec { program: Program::Shell(line), .. })) => text(line),
        Some(Action::Upload(upload)) => format!("upload {}", quoted(&text(&upload.path))),
        Some(Action::LogLevel { level, .. }) => format!("log level {}", text(level)),
        _ => text(action).replace('_', " "),
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
pub(super) fn states(runs: &BTreeMap<String, u64>) -> String {
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
    let items: List<OperationView> = newest(client, OPERATIONS, &query, limit, json).await?;
    if json {
        return output::json(&items);
    }
    let rows = items.iter().map(|one| {
        vec![
            text(one.id),
            ago(one.requested_at),
            text(&one.status),
            states(&one.runs),
            truncate(&text(&one.target), 30),
            truncate(&action(&one.action), 50),
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
    let found = client.get::<OperationDetail>(&path(id), &[]).await?;
    if json {
        return output::json(&found);
    }
    let one = &found.operation;
    let (user, cwd) = match one.action.known() {
        Some(Action::Exec(exec)) => (exec.user.as_ref(), exec.cwd.as_ref()),
        _ => (None, None),
    };
    let stop = one.stop_after.map(|n| format!("{n} that did not succeed"));
    facts(&[
        ("id", text(one.id)),
        ("status", text(&one.status)),
        ("action", action(&one.action)),
        ("user", optional(user)),
        ("folder", optional(cwd)),
        ("target", text(&one.target)),
        ("requested by", text(&one.actor)),
        ("requested at", text(one.requested_at)),
        ("expires at", text(one.expires_at)),
        ("runs", format!("{} of {} ended: {}", one.finished, one.devices, states(&one.runs))),
        ("concurrency", text(one.at_once)),
        ("stops after", stop.unwrap_or_default()),
    ]);
    summary(&found);
    Ok(())
}

/// Prints failures grouped by reason, and the slowest runs.
pub(super) fn summary(found: &OperationDetail) {
    let failures = &found.failures;
    if !failures.is_empty() {
        line("");
        let rows = failures.iter().map(|one| {
            let devices: Vec<String> = one.devices.iter().map(text).collect();
            let more = one.count > devices.len() as u64;
            let devices = devices.join(", ") + if more { ", …" } else { "" };
            vec![text(one.count), text(&one.reason), devices]
        });
        table(&["runs", "did not succeed", "devices"], rows.collect(), "");
    }
    let slowest = &found.slowest;
    if found.operation.devices > 1 && !slowest.is_empty() {
        line("");
        let rows = slowest.iter().map(|one| vec![text(&one.device), duration(one.duration_ms)]);
        table(&["slowest", "took"], rows.collect(), "");
    }
}

/// Formats milliseconds.
pub(super) fn duration(millis: u64) -> String {
    match millis {
        ms @ 0..=999 => format!("{ms} ms"),
        ms @ 1_000..=119_999 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        ms => format!("{} min", ms / 60_000),
    }
}

pub(super) async fn runs(
    client: &Client,
    id: &str,
    state: Option<String>,
    json: bool,
) -> Result<()> {
    let query: Vec<(&str, String)> = state.map(|state| ("state", state)).into_iter().collect();
    let found = client.list::<RunView>(&format!("{}/runs", path(id)), &query).await?;
    if json {
        return output::json(&found);
    }
    let rows = found.iter().map(|run| {
        let exit = match run.signal {
            Some(signal) => format!("signal {signal}"),
            None => optional(run.exit_code),
        };
        vec![
            device_of(run),
            text(&run.state),
            exit,
            run.duration_ms.map(duration).unwrap_or_default(),
            optional(run.stdout.map(|it| it.bytes)),
            optional(run.stderr.map(|it| it.bytes)),
            truncate(&optional(run.reason.as_ref()), 60),
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
            let found = client.list::<RunView>(&format!("{}/runs", path(id)), &query).await?;
            found.iter().map(|run| text(run.device)).collect()
        }
    };
    let mut explained = Vec::new();
    for device in devices.iter().take(MAX_EXPLAINED) {
        let path = format!("{}/runs/{}", path(id), segment(device));
        explained.push(client.get::<RunView>(&path, &[]).await?);
    }
    if devices.len() > MAX_EXPLAINED {
        note(format!("showing {MAX_EXPLAINED} of {}; name a device to see another", devices.len()));
    }
    if json {
        let item = |run: &Received<RunView>| {
            json!({"device": run.device, "name": run.name, "state": run.state,
                   "explanation": run.explanation})
        };
        return output::json(&explained.iter().map(item).collect::<Vec<_>>());
    }
    if explained.is_empty() {
        line("all runs have succeeded or are running");
    }
    for run in &explained {
        line(format!("{}: {}", device_of(run), text(&run.state)));
        line(format!("  {}", optional(run.explanation.as_ref())));
    }
    Ok(())
}
