//! The real agent inside the test's process: for conditions that no flag of the agent allows, such
//! as an outbox of a few kilobytes.

use std::path::{Path, PathBuf};

use muster_agent::enroll::{EnrollOptions, enroll};
use muster_agent::outbox::{Limits, RecordError};
use muster_agent::{Agent, AgentOptions, Status};
use muster_schemas::ConfigVersion;
use muster_schemas::events::DeviceConfigApplied;
use tokio_util::sync::CancellationToken;

use crate::binaries::binary;

/// An agent on a separate thread.
#[derive(Debug)]
pub struct InProcessAgent {
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

impl InProcessAgent {
    /// Enrolls in a folder under `dir` and starts.
    ///
    /// # Panics
    /// When enrollment fails.
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

    /// Starts it.
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
        // A single-threaded runtime, like the agent's.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(agent.run(stopped)).expect("runs");
        });
        self.running = Some(Running { agent: kept, stop, thread });
    }

    /// Stops it.
    ///
    /// # Panics
    /// When it has failed.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            running.thread.join().expect("the agent's thread");
        }
    }

    /// Records the next numbered event; the number advances only if it was recorded.
    ///
    /// # Errors
    /// When the outbox refuses it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn record(&mut self) -> Result<(), RecordError> {
        let event = DeviceConfigApplied {
            version: ConfigVersion(self.recorded + 1),
            errors: Default::default(),
        };
        let running = self.running.as_ref().expect("runs");
        running.agent.recorder().record(&event.into())?;
        self.recorded += 1;
        Ok(())
    }

    /// Records `count` numbered events.
    ///
    /// # Panics
    /// When one is refused.
    pub fn record_many(&mut self, count: u64) {
        for _ in 0..count {
            self.record().expect("recorded");
        }
    }

    /// Size of the events in its outbox that the log already has, in bytes.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.agent.status().outbox.kept_bytes)
    }

    /// The agent's own view of itself.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn status(&self) -> Status {
        self.running.as_ref().expect("runs").agent.status()
    }

    /// How many numbered events were recorded.
    #[must_use]
    pub const fn recorded(&self) -> u64 {
        self.recorded
    }
}

impl Drop for InProcessAgent {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.stop.cancel();
        }
    }
}
