//! The agent of this machine: it enrolls through the same listener as any other device, and is
//! supervised like the servers.
//!
//! The agent's folder holds its identity; the server decides whether that is still a device. If the
//! server does not have the device, the agent enrolls again when `muster up` starts. If the agent's
//! folder was lost, the machine becomes the same device again: its id is stored next to that
//! folder.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use muster_api_types::devices::{DeviceDetail, DeviceSummary, Status};
use muster_api_types::events::LogHead;
use muster_api_types::tokens::{CreateEnrollmentToken, TokenCreated};
use muster_backing::child::Child;
use muster_client::RequestError;
use muster_client::{Client, segment};
use muster_files::write_private;
use muster_schemas::Timestamp;
use serde::Deserialize;

use super::console::Console;
use super::folder::Folder;
use super::servers::report_child;

/// Interval between checks of this machine's device.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Number of consecutive checks with an offline device before it is reported.
const OFFLINE_CHECKS: u32 = 6;

#[derive(Debug)]
pub(super) struct LocalAgent {
    child: Child,
    agent: Program,
    device: Device,
}

/// Program of the agent, and its folder.
#[derive(Clone, Debug)]
struct Program {
    path: PathBuf,
    data: PathBuf,
}

/// Identity of this machine.
#[derive(Clone, Debug)]
struct Device {
    id: String,
    name: String,
}

/// Output of `muster-agent status --json`, as far as it is used here.
#[derive(Debug, Deserialize)]
struct AgentStatus {
    device: String,
    name: String,
    ca: String,
    #[serde(default)]
    last_error: Option<(Timestamp, String)>,
}

/// Finds `muster-agent`, next to this program or on PATH.
fn find_agent() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name("muster-agent");
    if beside.is_file() {
        return Some(beside);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("muster-agent")).find(|file| file.is_file())
}

impl LocalAgent {
    /// Enrolls this machine if it is not a device, and supervises its agent.
    pub(super) async fn start(
        folder: &Folder,
        client: &Client,
        ca: &Path,
        console: &Console,
    ) -> Result<Option<Self>> {
        let Some(path) = find_agent() else {
            console.line(
                "  -- muster-agent was found neither next to muster nor on PATH; this machine \
                 is not a device",
            );
            return Ok(None);
        };
        let doing = console.start("muster-agent (this machine)");
        let agent = Program { path, data: folder.path().join("agent") };
        let started = AgentStart { folder, agent: &agent, client, ca, console }.run().await;
        match started {
            Ok(agent) => {
                doing.done();
                Ok(Some(agent))
            }
            Err(error) => {
                doing.failed();
                Err(error.context(
                    "failed to enroll this machine as a device (try: muster up --no-agent)",
                ))
            }
        }
    }

    /// Returns the name of the device.
    pub(super) fn name(&self) -> &str {
        &self.device.name
    }

    /// Reports changes of the agent's state; never returns.
    pub(super) async fn report(&self, client: &Client, console: &Console) {
        tokio::join!(report_child(&self.child, console), self.watch(client, console));
    }

    /// Reports when the device was deleted, or is offline although its agent runs.
    async fn watch(&self, client: &Client, console: &Console) {
        let name = &self.device.name;
        let mut away = 0_u32;
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            // A server error is no information about the device.
            match find(client, &self.device.id).await {
                Ok(Some(device)) if device.status == Status::Online => {
                    if away >= OFFLINE_CHECKS {
                        console.line(&format!("  ok this machine's device {name} is online again"));
                    }
                    away = 0;
                }
                Ok(Some(_)) => {
                    away += 1;
                    if away == OFFLINE_CHECKS {
                        let why = self.agent.last_error().await;
                        console
                            .line(&format!("  !! this machine's device {name} is not online{why}"));
                    }
                }
                Ok(None) => {
                    console.line(&format!(
                        "  !! this machine's device {name} was deleted; the next start of `muster \
                         up` enrolls a new one, unless with --no-agent"
                    ));
                    return;
                }
                Err(_) => {}
            }
        }
    }

    pub(super) async fn stop(self) {
        if let Err(error) = self.child.shut_down().await {
            tracing::warn!(%error, "the agent did not stop cleanly");
        }
    }
}

/// Returns the device, unless it was deleted, from a read model that has applied the current log.
async fn find(client: &Client, id: &str) -> Result<Option<DeviceSummary>> {
    let head = client.get::<LogHead>("/api/v1/log/head", &[]).await?;
    let path = format!("/api/v1/devices/{}", segment(id));
    match client.get_at::<DeviceDetail>(&path, &[], Some(head.position)).await {
        Ok(device) if device.summary.status == Status::Deleted => Ok(None),
        Ok(device) => Ok(Some(device.into_content().summary)),
        Err(error) => match error.downcast_ref() {
            Some(RequestError::Problem { status: 404, .. }) => Ok(None),
            _ => Err(error),
        },
    }
}

impl Program {
    async fn run<'a>(&self, args: impl IntoIterator<Item = &'a OsStr>) -> Result<Output> {
        tokio::process::Command::new(&self.path)
            .arg("--data")
            .arg(&self.data)
            .args(args)
            // Variables for other agents must not affect this one.
            .env_remove("MUSTER_ENROLL_TOKEN")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("failed to run {}", self.path.display()))
    }

    /// Returns the agent's status; `None` if it is not enrolled, or if its state is one that
    /// `enroll` will report.
    async fn status(&self) -> Result<Option<AgentStatus>> {
        let output = self.run(["status", "--json"].map(OsStr::new)).await?;
        if !output.status.success() {
            return Ok(None);
        }
        let status = serde_json::from_slice(&output.stdout);
        status
            .map(Some)
            .with_context(|| format!("{} status did not return JSON", self.path.display()))
    }

    async fn last_error(&self) -> String {
        let error = self.status().await.ok().flatten().and_then(|status| status.last_error);
        error.map_or_else(String::new, |(_, error)| format!("; its agent reports: {error}"))
    }
}

/// Parameters of the start.
struct AgentStart<'a> {
    folder: &'a Folder,
    agent: &'a Program,
    client: &'a Client,
    ca: &'a Path,
    console: &'a Console,
}

impl AgentStart<'_> {
    async fn run(&self) -> Result<LocalAgent> {
        let device = self.device().await?;
        let args = [OsStr::new("--data"), self.agent.data.as_os_str()]
            .into_iter()
            .chain(["run", "--url", self.client.url()].map(OsStr::new))
            .map(OsStr::to_owned)
            .collect();
        let spec = muster_backing::program::program(
            "muster-agent",
            self.agent.path.clone(),
            args,
            self.folder.path().join("agent-process"),
        );
        Ok(LocalAgent { child: Child::start(spec).await?, agent: self.agent.clone(), device })
    }

    /// Returns this machine's device; enrolls it if necessary.
    async fn device(&self) -> Result<Device> {
        let Some((device, ca)) = self.identity().await? else {
            return self.enroll(false).await;
        };
        let reason = if ca == std::fs::read_to_string(self.ca)?.trim() {
            match find(self.client, &device.id).await {
                Ok(Some(existing)) => {
                    let name = existing.name.map_or(device.name, |name| name.to_string());
                    return Ok(Device { name, ..device });
                }
                Ok(None) => format!("the server has no device {} ({})", device.name, device.id),
                // Read models that are being rebuilt are no information about the device.
                Err(error) => {
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "failed to check whether this machine is a device"
                    );
                    return Ok(device);
                }
            }
        } else {
            "the server has a new CA".to_owned()
        };
        self.console.line(&format!("  -- {reason}; this machine is enrolled again"));
        self.enroll(true).await
    }

    /// Returns the identity in the agent's folder, and the CA that it trusts.
    async fn identity(&self) -> Result<Option<(Device, String)>> {
        let status = self.agent.status().await?;
        Ok(status.map(|status| {
            let AgentStatus { device, name, ca, .. } = status;
            (Device { id: device, name }, ca.trim().to_owned())
        }))
    }

    async fn enroll(&self, force: bool) -> Result<Device> {
        let mut wish = CreateEnrollmentToken {
            expires_in_seconds: 600,
            ..CreateEnrollmentToken::new("muster up".parse()?)
        };
        let noted = self.folder.path().join("this-device");
        let was = std::fs::read_to_string(&noted).unwrap_or_default();
        if !was.is_empty() && find(self.client, was.trim()).await?.is_some() {
            wish.device = Some(was.trim().parse()?);
        }
        let response = self.client.post::<TokenCreated>("/api/v1/enrollment-tokens", &wish).await?;
        let file = self.folder.path().join("enrollment-token");
        write_private(&file, response.secret.as_bytes())?;
        let mut args: Vec<&OsStr> =
            ["enroll", "--url", self.client.url(), "--token-file"].map(OsStr::new).to_vec();
        args.push(file.as_os_str());
        args.extend(force.then_some(OsStr::new("--force")));
        let ran = self.agent.run(args).await;
        let _ = std::fs::remove_file(&file);
        let ran = ran?;
        if !ran.status.success() {
            bail!("{}", String::from_utf8_lossy(&ran.stderr).trim());
        }
        let (device, _) =
            self.identity().await?.context("the agent enrolled but has no identity")?;
        write_private(&noted, device.id.as_bytes())?;
        Ok(device)
    }
}
