//! `muster-agent status`: queries the running agent, or reads the data folder if no agent runs.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use muster_agent::status::query_status;
use muster_agent::{Agent, AgentOptions, Status};

/// Returns the status from the running agent, or from the data folder.
pub(super) async fn read_status(data: &Path) -> anyhow::Result<Status> {
    let running = query_status(data)
        .await
        .with_context(|| format!("the agent on {} does not respond", data.display()))?;
    match running {
        Some(status) => Ok(status),
        None => Ok(Agent::open(AgentOptions::new(data))?.status()),
    }
}

pub(super) async fn status(data: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let status = read_status(data).await?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?;
    } else {
        write!(out, "{}", format_status(&status))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn format_status(status: &Status) -> String {
    let time = |time: Option<muster_schemas::Timestamp>| {
        time.map_or_else(|| "never".to_owned(), |time| time.to_string())
    };
    let connection = match (&status.broker, status.connected_since) {
        (Some(broker), Some(since)) => format!("connected to {broker} since {since}"),
        _ if status.is_running => "not connected; retrying".to_owned(),
        _ => "the agent is not running".to_owned(),
    };
    let skew = status
        .clock_skew_us
        .map_or_else(|| "unknown".to_owned(), |skew| format!("{:.3} s", skew as f64 / 1e6));
    let (outbox, backlog) = (&status.outbox, &status.backlog);
    let error = status
        .last_error
        .as_ref()
        .map_or_else(|| "none".to_owned(), |(time, error)| format!("{time}: {error}"));
    [
        ("device", format!("{} ({})", status.name, status.device)),
        ("project", format!("{} at {}", status.project, status.url)),
        ("agent", status.agent_version.clone()),
        ("connection", connection),
        ("credentials until", time(status.credentials_until)),
        (
            "outbox",
            format!(
                "{} events ({} bytes) wait for the log; {} recorded, {} confirmed in epoch {}",
                outbox.unconfirmed,
                outbox.unconfirmed_bytes,
                outbox.last_seq,
                outbox.confirmed,
                outbox.epoch
            ),
        ),
        ("dropped events", outbox.dropped.to_string()),
        (
            "metrics backlog",
            format!(
                "{} batches ({} bytes), {} dropped",
                backlog.batches, backlog.bytes, backlog.dropped
            ),
        ),
        ("applications", applications(&status.local)),
        ("last ack", time(status.last_ack)),
        ("last hello", time(status.last_hello)),
        ("clock skew", skew),
        ("config version", status.config_version.to_string()),
        ("last error", error),
    ]
    .iter()
    .map(|(name, value)| format!("{name:<18} {value}\n"))
    .collect()
}

fn applications(local: &muster_agent::status::LocalStatus) -> String {
    let mut parts = vec![format!("{} points of {} series", local.points, local.series)];
    parts.extend(local.dropped.iter().map(|(cause, count)| format!("{count} dropped ({cause})")));
    if local.tags_left_out > 0 {
        parts.push(format!("{} tags dropped", local.tags_left_out));
    }
    parts.extend(local.listening.iter().map(|address| format!("listening on {address}")));
    parts.extend(local.problems.iter().map(|(name, problem)| format!("{name}: {problem}")));
    parts.join("; ")
}
