//! Reads a provisioning folder and checks its alert rules, with the requirements in `rules`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_norway::Value;

use super::rules::Checker;

/// Checks all alert rule files; returns the number of rules.
pub(super) fn check(dir: &Path) -> Result<usize> {
    let inner = dir.join("provisioning");
    let dir = if inner.is_dir() { inner } else { dir.to_owned() };
    let mut checker = Checker::new(known_sources(&dir)?);
    let files = files_in(&dir.join("alerting"))?;
    if files.is_empty() {
        bail!("{} contains no alert rule files (alerting/*.yaml)", dir.display());
    }
    for path in files {
        let text = read(&path)?;
        checker.file(&path.display().to_string(), &text);
    }
    let (rules, wrong) = checker.end();
    if wrong.is_empty() {
        return Ok(rules);
    }
    let lines: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    bail!("{} errors in alert rules:\n  {}", wrong.len(), lines.join("\n  "))
}

/// Returns the uids of the data sources in the same provisioning folder; empty if there are none.
fn known_sources(dir: &Path) -> Result<BTreeSet<String>> {
    let mut known = BTreeSet::new();
    for path in files_in(&dir.join("datasources"))? {
        let document: Value = serde_norway::from_str(&read(&path)?)
            .with_context(|| format!("{} is not YAML", path.display()))?;
        let sources = document.get("datasources").and_then(Value::as_sequence);
        known.extend(
            sources
                .into_iter()
                .flatten()
                .filter_map(|source| source.get("uid")?.as_str())
                .map(str::to_owned),
        );
    }
    Ok(known)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// Returns the files that Grafana reads, in order; empty if the folder does not exist.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("failed to read {}", dir.display()));
        }
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if matches!(ending, Some("yaml" | "yml" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
