//! A system with one device: the real agent on this machine, named `robot`.

use std::time::Duration;

use tempfile::TempDir;

use crate::agent::AgentProcess;
use crate::api::Api;
use crate::system::System;
use crate::wait;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A system, its device `robot`, and the folder of both the agent and the test.
#[derive(Debug)]
pub struct Robot {
    /// The servers.
    pub system: System,
    /// The agent.
    pub agent: AgentProcess,
    /// The folder; `policy.toml` in it is the agent's policy.
    pub dir: TempDir,
}

impl Robot {
    /// Starts everything; `policy` is the agent's policy.
    ///
    /// # Panics
    /// When a process does not start.
    pub async fn start(policy: &str) -> Self {
        let system = System::start().await;
        let dir = tempfile::tempdir().expect("a folder");
        let token = system.api.enrollment_token(1).await;
        let file = dir.path().join("policy.toml");
        std::fs::write(&file, policy).expect("a policy");
        let variables = [("MUSTER_AGENT_POLICY", file.to_str().expect("a name"))];
        let url = &system.api.url;
        let mut agent = AgentProcess::enroll_with(dir.path(), url, &token, "robot", &variables);
        agent.start();
        online(&system.api).await;
        Self { system, agent, dir }
    }

    /// Replaces the device's policy.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn policy(&self, text: &str) {
        std::fs::write(self.dir.path().join("policy.toml"), text).expect("a policy");
    }
}

/// Waits until the device is online.
///
/// # Panics
/// When it does not come online in time.
pub async fn online(api: &Api) {
    wait::until("the agent to be online", WAIT_TIMEOUT, || async {
        // The read model may not have the device yet.
        let (_, shown) = api.send(reqwest::Method::GET, "/api/v1/devices/robot", None).await;
        (shown["status"] == "online").then_some(())
    })
    .await;
}
