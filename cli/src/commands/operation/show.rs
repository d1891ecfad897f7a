//! Prints operations and runs as tables and facts.

use std::collections::BTreeMap;

use anyhow::Result;
use muster_api_types::Open;
use muster_api_types::actions::Action;
use muster_api_types::operations::{Operation, OperationDetail, Target};
use muster_api_types::runs::Run;
use muster_client::{Client, List, Received, segment};
use serde_json::json;

use super::api::{OPERATIONS, path};
use crate::commands::newest;
use crate::output::{self, ago, facts, line, note, optional, table, text};

/// Describes the action in one line.
pub(super) fn action(action: &Open<Action>) -> String {
    match action.known() {
        Some(Action::Exec(exec)) => {
            exec.argv.iter().map(|word| quoted(&text(word))).collect::<Vec<_>>().join(" ")
        }
        Some(Action::Shell(shell)) => text(&shell.command),
        Some(Action::Upload(upload)) => format!("upload {}", quoted(&text(&upload.path))),
        Some(Action::LogLevel(change)) => format!("log level {}", text(&change.level)),
        _ => text(action).replace('_', " "),
    }
}

/// Describes the requested devices in one line.
fn target(target: &Open<Target>) -> String {
    target.known().map_or_else(|| text(target), text)
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
pub(super) fn statuses(runs: &BTreeMap<String, u64>) -> String {
    runs.iter().map(|(status, count)| format!("{count} {status}")).collect::<Vec<_>>().join(", ")
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
    let items: List<Operation> = newest(client, OPERATIONS, &query, limit, json).await?;
    if json {
        return output::json(&items);
    }
    let rows = items.iter().map(|one| {
        vec![
            text(one.id),
            ago(one.created_at),
            text(&one.status),
            statuses(&one.run_counts),
            truncate(&target(&one.target), 30),
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
        Some(Action::Shell(shell)) => (shell.user.as_ref(), shell.cwd.as_ref()),
        _ => (None, None),
    };
    let stop = one.max_failures.map(|n| format!("{n} that did not succeed"));
    facts(&[
        ("id", text(one.id)),
        ("status", text(&one.status)),
        ("action", action(&one.action)),
        ("user", optional(user)),
        ("folder", optional(cwd)),
        ("target", target(&one.target)),
        ("requested by", text(&one.created_by)),
        ("requested at", text(one.created_at)),
        ("expires at", text(one.expires_at)),
        (
            "runs",
            format!(
                "{} of {} ended: {}",
                one.finished_count,
                one.device_count,
                statuses(&one.run_counts)
            ),
        ),
        ("concurrency", text(one.max_concurrent_devices)),
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
            let more = one.run_count > devices.len() as u64;
            let devices = devices.join(", ") + if more { ", …" } else { "" };
            vec![text(one.run_count), text(&one.reason), devices]
        });
        table(&["runs", "did not succeed", "devices"], rows.collect(), "");
    }
    let slowest = &found.slowest_runs;
    if found.operation.device_count > 1 && !slowest.is_empty() {
        line("");
        let rows =
            slowest.iter().map(|one| vec![text(&one.device), duration(one.duration_seconds)]);
        table(&["slowest", "took"], rows.collect(), "");
    }
}

/// Formats a number of seconds.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 1.0 => format!("{:.0} ms", (seconds * 1e3).floor()),
        seconds if seconds < 120.0 => format!("{:.1} s", (seconds * 10.0).floor() / 10.0),
        seconds => format!("{:.0} min", (seconds / 60.0).floor()),
    }
}

pub(super) async fn runs(
    client: &Client,
    id: &str,
    status: Option<String>,
    json: bool,
) -> Result<()> {
    let query: Vec<(&str, String)> = status.map(|status| ("status", status)).into_iter().collect();
    let found = client.list::<Run>(&format!("{}/runs", path(id)), &query).await?;
    if json {
        return output::json(&found);
    }
    let rows = found.iter().map(|run| {
        let exit = match run.signal {
            Some(signal) => format!("signal {signal}"),
            None => optional(run.exit_code),
        };
        vec![
            text(&run.device),
            text(&run.status),
            exit,
            run.duration_seconds.map(duration).unwrap_or_default(),
            optional(run.stdout.map(|it| it.size_bytes)),
            optional(run.stderr.map(|it| it.size_bytes)),
            truncate(&optional(run.reason.as_ref()), 60),
        ]
    });
    let header = ["device", "status", "exit", "took", "stdout", "stderr", "reason"];
    table(&header, rows.collect(), "no run has that status");
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
            let query = [("status", NOT_SUCCEEDED.to_owned())];
            let found = client.list::<Run>(&format!("{}/runs", path(id)), &query).await?;
            found.iter().map(|run| text(run.device.id)).collect()
        }
    };
    let mut explained = Vec::new();
    for device in devices.iter().take(MAX_EXPLAINED) {
        let path = format!("{}/runs/{}", path(id), segment(device));
        explained.push(client.get::<Run>(&path, &[]).await?);
    }
    if devices.len() > MAX_EXPLAINED {
        note(format!("showing {MAX_EXPLAINED} of {}; name a device to see another", devices.len()));
    }
    if json {
        let item = |run: &Received<Run>| json!({"device": run.device, "status": run.status, "explanation": run.explanation});
        return output::json(&explained.iter().map(item).collect::<Vec<_>>());
    }
    if explained.is_empty() {
        line("all runs have succeeded or are running");
    }
    for run in &explained {
        line(format!("{}: {}", text(&run.device), text(&run.status)));
        line(format!("  {}", optional(run.explanation.as_ref())));
    }
    Ok(())
}
