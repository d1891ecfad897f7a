//! An agent inside the test's own process.

use std::time::{Duration, Instant};

use muster_agent::enroll::enroll;
use muster_agent::{Agent, AgentError, AgentOptions};
use muster_schemas::ConfigVersion;
use muster_schemas::events::DeviceConfigApplied;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::Server;

pub(crate) struct Running {
    pub(crate) agent: Agent,
    stop: CancellationToken,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Running {
    pub(crate) async fn start(server: &Server) -> Self {
        Self::start_with(server, |_| {}).await
    }

    pub(crate) async fn start_with(
        server: &Server,
        change: impl FnOnce(&mut AgentOptions),
    ) -> Self {
        let data = server.path("device");
        if !data.exists() {
            enroll(server.enroll_options(&data)).await.unwrap();
        }
        let mut options = AgentOptions::new(data);
        options.operations.policy = server.path("policy.toml");
        change(&mut options);
        let agent = Agent::open(options).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(agent.clone().run(stop.clone()));
        Self { agent, stop, task }
    }

    /// Stops in less than two seconds, as a system shutdown requires.
    pub(crate) async fn stop(self) {
        let requested_at = Instant::now();
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        assert!(requested_at.elapsed() < Duration::from_secs(2), "{:?}", requested_at.elapsed());
    }

    pub(crate) fn record(&self, version: u64) {
        let event =
            DeviceConfigApplied { version: ConfigVersion(version), errors: Default::default() }
                .into();
        self.agent.recorder().record(&event).unwrap();
    }
}
