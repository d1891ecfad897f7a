//! The agent of this very machine: it enrolls through the same door as any other device, and is
//! watched like the servers.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use muster_backing::child::Child;
use serde_json::json;

use super::folder::{Folder, write_private};
use super::say::Say;
use crate::client::Client;

#[derive(Debug)]
pub(super) struct LocalAgent {
    child: Child,
}

/// `muster-agent`, beside this program or on PATH.
fn find_agent() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name("muster-agent");
    if beside.is_file() {
        return Some(beside);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("muster-agent")).find(|file| file.is_file())
}

impl LocalAgent {
    /// Enrolls this machine if it is not, and keeps its agent running.
    pub(super) async fn start(
        folder: &Folder,
        url: &str,
        token: &str,
        ca: &Path,
        say: &Say,
    ) -> Result<Option<Self>> {
        let Some(program) = find_agent() else {
            say.line("  -- muster-agent was found neither beside muster nor on PATH; this machine is no device");
            return Ok(None);
        };
        let doing = say.start("muster-agent (this machine)");
        let started = Self::enroll_and_run(folder, &program, url, token, ca).await;
        match started {
            Ok(agent) => {
                doing.done();
                Ok(Some(agent))
            }
            Err(error) => {
                doing.failed();
                Err(error.context(
                    "cannot make this machine a device (muster up --no-agent goes without)",
                ))
            }
        }
    }

    async fn enroll_and_run(
        folder: &Folder,
        program: &Path,
        url: &str,
        token: &str,
        ca: &Path,
    ) -> Result<Self> {
        let data = folder.path().join("agent");
        let marker = folder.path().join("agent-enrolled");
        if !marker.exists() {
            let client = Client::new(url, token, Some(ca))?;
            let wish = json!({"name": "muster up", "ttl_seconds": 600});
            let answer = client.post("/api/v1/enrollment-tokens", &wish).await?;
            let text = answer["token"].as_str().context("the server gave no token")?;
            let token_file = folder.path().join("enrollment-token");
            write_private(&token_file, text.as_bytes())?;
            let ran = tokio::process::Command::new(program)
                .arg("--data")
                .arg(&data)
                .args(["enroll", "--url", url, "--token-file"])
                .arg(&token_file)
                .stdin(Stdio::null())
                .output()
                .await
                .with_context(|| format!("cannot run {}", program.display()))?;
            let _ = std::fs::remove_file(&token_file);
            if !ran.status.success() {
                bail!("{}", String::from_utf8_lossy(&ran.stderr).trim());
            }
            write_private(&marker, b"")?;
        }
        let args = vec![
            "--data".into(),
            data.clone().into_os_string(),
            "run".into(),
            "--url".into(),
            url.into(),
        ];
        let spec = muster_backing::program::program(
            "muster-agent",
            program.to_owned(),
            args,
            folder.path().join("agent-process"),
        );
        let child = Child::start(spec).await?;
        Ok(Self { child })
    }

    pub(super) async fn stop(self) {
        if let Err(error) = self.child.shut_down().await {
            tracing::warn!(%error, "the agent did not stop in good order");
        }
    }
}
