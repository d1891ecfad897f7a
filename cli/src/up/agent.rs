//! The agent of this very machine: it enrolls through the same door as any other device, and is
//! watched like the servers.
//!
//! Who it is stands in its own folder, and whether that is still a device is the server's to say:
//! one that the server does not know is enrolled anew when `muster up` starts.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use muster_backing::child::Child;
use serde_json::{Value, json};

use super::folder::{Folder, write_private};
use super::say::Say;
use super::servers::report_child;
use crate::client::{Client, segment};
use crate::exit::Refused;

/// How often is asked whether this machine is still a device.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct LocalAgent {
    child: Child,
    device: Device,
}

/// Who this machine is.
#[derive(Clone, Debug)]
struct Device {
    id: String,
    name: String,
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
    /// Enrolls this machine if it is no device, and keeps its agent running.
    pub(super) async fn start(
        folder: &Folder,
        client: &Client,
        ca: &Path,
        say: &Say,
    ) -> Result<Option<Self>> {
        let Some(program) = find_agent() else {
            say.line("  -- muster-agent was found neither beside muster nor on PATH; this machine is no device");
            return Ok(None);
        };
        let doing = say.start("muster-agent (this machine)");
        let started = Starting { folder, program: &program, client, ca, say }.run().await;
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

    /// The device's name.
    pub(super) fn name(&self) -> &str {
        &self.device.name
    }

    /// Says what becomes of it; never ends.
    pub(super) async fn report(&self, client: &Client, say: &Say) {
        let deleted = async {
            loop {
                tokio::time::sleep(LOOK_AGAIN).await;
                // A server that does not answer says nothing about the device.
                if matches!(find(client, &self.device.id).await, Ok(None)) {
                    say.line(&format!(
                        "  !! this machine's device {} was deleted; `muster up` makes it a new one \
                         when it is started again, unless with --no-agent",
                        self.device.name
                    ));
                    return;
                }
            }
        };
        tokio::join!(report_child(&self.child, say), deleted);
    }

    pub(super) async fn stop(self) {
        if let Err(error) = self.child.shut_down().await {
            tracing::warn!(%error, "the agent did not stop in good order");
        }
    }
}

/// The name of a device that is known and not deleted, by all that the log holds now.
async fn find(client: &Client, id: &str) -> Result<Option<String>> {
    let head = client.get("/api/v1/log/head", &[]).await?;
    let path = format!("/api/v1/devices/{}", segment(id));
    match client.get_at(&path, &[], head["position"].as_u64()).await {
        Ok(device) if device["status"] == "deleted" => Ok(None),
        Ok(device) => Ok(device["name"].as_str().map(str::to_owned)),
        Err(error) => match error.downcast_ref() {
            Some(Refused::Problem { status: 404, .. }) => Ok(None),
            _ => Err(error),
        },
    }
}

/// What it takes to start it.
struct Starting<'a> {
    folder: &'a Folder,
    program: &'a Path,
    client: &'a Client,
    ca: &'a Path,
    say: &'a Say,
}

impl Starting<'_> {
    async fn run(&self) -> Result<LocalAgent> {
        let device = match self.identity().await? {
            None => self.enroll(false).await?,
            Some((device, ca)) => {
                let known = find(self.client, &device.id).await;
                match known.context("cannot ask whether this machine is a device")? {
                    Some(name) if ca == std::fs::read_to_string(self.ca)?.trim() => {
                        Device { name, ..device }
                    }
                    Some(_) => {
                        self.say.line(
                            "  -- the server has another CA now; enrolling this machine anew",
                        );
                        self.enroll(true).await?
                    }
                    None => {
                        self.say.line(&format!(
                            "  -- the server knows no device {} ({}); enrolling this machine anew",
                            device.name, device.id
                        ));
                        self.enroll(true).await?
                    }
                }
            }
        };
        let args = vec![
            "--data".into(),
            self.data().into(),
            "run".into(),
            "--url".into(),
            self.client.url().into(),
        ];
        let spec = muster_backing::program::program(
            "muster-agent",
            self.program.to_owned(),
            args,
            self.folder.path().join("agent-process"),
        );
        Ok(LocalAgent { child: Child::start(spec).await?, device })
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// Who the agent's folder says it is, and the CA that it trusts; `None` when it is not enrolled.
    async fn identity(&self) -> Result<Option<(Device, String)>> {
        let asked = self.agent(["status".as_ref(), "--json".as_ref()]).await?;
        if !asked.status.success() {
            // Not enrolled, or in a way of which `enroll` will have its own words.
            return Ok(None);
        }
        let status: Value = serde_json::from_slice(&asked.stdout)
            .with_context(|| format!("{} status does not answer JSON", self.program.display()))?;
        let text = |name: &str| status[name].as_str().unwrap_or_default().trim().to_owned();
        Ok(Some((Device { id: text("device"), name: text("name") }, text("ca"))))
    }

    async fn enroll(&self, anew: bool) -> Result<Device> {
        let wish = json!({"name": "muster up", "ttl_seconds": 600});
        let answer = self.client.post("/api/v1/enrollment-tokens", &wish).await?;
        let token = answer["token"].as_str().context("the server gave no token")?;
        let file = self.folder.path().join("enrollment-token");
        write_private(&file, token.as_bytes())?;
        let mut args: Vec<&OsStr> =
            ["enroll", "--url", self.client.url(), "--token-file"].map(OsStr::new).to_vec();
        args.push(file.as_os_str());
        args.extend(anew.then_some(OsStr::new("--force")));
        let ran = self.agent(args).await;
        let _ = std::fs::remove_file(&file);
        let ran = ran?;
        if !ran.status.success() {
            bail!("{}", String::from_utf8_lossy(&ran.stderr).trim());
        }
        let (device, _) = self.identity().await?.context("the agent enrolled and is no device")?;
        Ok(device)
    }

    async fn agent<'b>(&self, args: impl IntoIterator<Item = &'b OsStr>) -> Result<Output> {
        tokio::process::Command::new(self.program)
            .arg("--data")
            .arg(self.data())
            .args(args)
            // What is set for another agent is not meant for this one.
            .env_remove("MUSTER_ENROLL_TOKEN")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot run {}", self.program.display()))
    }
}
