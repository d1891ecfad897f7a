//! The agent as a separate process, which a test can kill.

use std::process::{Child, Command, Stdio};

use muster_agent::enroll::enroll;

use crate::support::Server;

pub(crate) struct Process(Child);

impl Process {
    pub(crate) async fn start(server: &Server) -> Self {
        let data = server.path("device");
        if !data.exists() {
            enroll(server.enroll_options(&data)).await.unwrap();
        }
        let child = Command::new(env!("CARGO_BIN_EXE_muster-agent"))
            .arg("--data")
            .arg(&data)
            .arg("run")
            .arg("--policy")
            .arg(server.path("policy.toml"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Returns its memory usage, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let pid = i32::try_from(self.0.id()).unwrap();
        let status = procfs::process::Process::new(pid).unwrap().status().unwrap();
        status.vmrss.unwrap() * 1024
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
