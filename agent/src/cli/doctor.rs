//! `muster-agent doctor`: prints the results of the checks.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use muster_agent::doctor::examine;

use super::status::read_status;

pub(super) async fn doctor(data: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let status = read_status(data).await;
    let checks = examine(data, status.map_err(Into::into)).await;
    let has_failed = checks.iter().any(|check| !check.is_ok());
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&checks)?)?;
    } else {
        for check in &checks {
            let verdict = if check.is_ok() { "ok  " } else { "FAIL" };
            writeln!(out, "{verdict} {:<12} {}", check.name, check.found)?;
            if let Some(remedy) = &check.remedy {
                writeln!(out, "     {:<12} → {remedy}", "")?;
            }
        }
    }
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
