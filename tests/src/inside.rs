//! The real agent inside the test's own process: for what no flag of the agent makes happen, such
//! as an outbox of a few kilobytes.

use std::path::{Path, PathBuf};

use muster_agent::enroll::{EnrollOptions, enroll};
use muster_agent::outbox::{Limits, RecordError};
use muster_agent::{Agent, AgentOptions};
use muster_schemas::events::DeviceConfigApplied;
use tokio_util::sync::CancellationToken;

use crate::binaries::binary;

/// An agent on a thread of its own.
#[derive(Debug)]
pub struct AgentInside {
    data: PathBuf,
    limits: Limits,
    running: Option<Running>,
    recorded: u64,
}

struct Running {
    agent: Agent,
    stop: CancellationToken,
    thread: std::thread::JoinHandle<()>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

impl AgentInside {
    /// Enrolls in a folder under `dir` and runs.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn join(dir: &Path, url: &str, token: &str, name: &str, limits: Limits) -> Self {
        let data = dir.join(name);
        let options = EnrollOptions {
            data: data.clone(),
            url: url.parse().expect("a URL"),
            token: token.parse().expect("a token"),
            name: Some(name.parse().expect("a name")),
            labels: Default::default(),
            force: false,
        };
        enroll(options).await.expect("enrolls");
        let mut agent = Self { data, limits, running: None, recorded: 0 };
        agent.start();
        agent
    }

    /// Runs it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&mut self) {
        muster_agent::subprocess::set_program(binary("muster-agent"));
        let options = AgentOptions { limits: self.limits, ..AgentOptions::new(&self.data) };
        let agent = Agent::open(options).expect("the folder opens");
        let stop = CancellationToken::new();
        let kept = agent.clone();
        let stopped = stop.clone();
        // One thread, as the agent itself has it.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(agent.run(stopped)).expect("runs");
        });
        self.running = Some(Running { agent: kept, stop, thread });
    }

    /// Stops it.
    ///
    /// # Panics
    /// When it failed.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            running.thread.join().expect("the agent's thread");
        }
    }

    /// Records one more numbered event; the number counts only when it was recorded.
    ///
    /// # Errors
    /// As the outbox refuses it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn record(&mut self) -> Result<(), RecordError> {
        let event = DeviceConfigApplied { version: self.recorded + 1, errors: Default::default() };
        let running = self.running.as_ref().expect("runs");
        running.agent.recorder().record(&event.into())?;
        self.recorded += 1;
        Ok(())
    }

    /// Records so many.
    ///
    /// # Panics
    /// When one is refused.
    pub fn record_many(&mut self, count: u64) {
        for _ in 0..count {
            self.record().expect("recorded");
        }
    }

    /// What its outbox holds of what the log has, in bytes.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.agent.status().outbox.kept_bytes)
    }

    /// How many numbered events were recorded.
    #[must_use]
    pub const fn recorded(&self) -> u64 {
        self.recorded
    }
}

impl Drop for AgentInside {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.stop.cancel();
        }
    }
}
