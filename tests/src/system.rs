//! The system under test: `muster up` as a process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_backing::ports::free_port;
use serde_json::Value;
use tempfile::TempDir;

use crate::api::Api;
use crate::binaries::binary;
use crate::wait;

/// `muster up` with its own folder.
#[derive(Debug)]
pub struct System {
    dir: TempDir,
    port: u16,
    child: Option<Child>,
    flags: Vec<String>,
    files: Option<u32>,
    /// An API client with the admin token of `ready.json`.
    pub api: Api,
}

impl System {
    /// Starts without an agent.
    pub async fn start() -> Self {
        Self::start_with(&["--no-agent"]).await
    }

    /// Starts with these flags.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_with(flags: &[&str]) -> Self {
        Self::start_all(flags, None).await
    }

    /// Starts with these flags and this hard limit of open files.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_with_files(flags: &[&str], files: u32) -> Self {
        Self::start_all(flags, Some(files)).await
    }

    async fn start_all(flags: &[&str], files: Option<u32>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let port = free_port().expect("a port");
        let mut child = spawn(dir.path(), port, &flags, files);
        let api = ready(dir.path(), &mut child).await;
        Self { dir, port, child: Some(child), flags, files, api }
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The path of its CA certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir().join("keys/ca.pem")
    }

    /// Its output.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("said")).unwrap_or_default()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Stops it with SIGINT, like Ctrl-C; returns whether it exited with success.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn stop(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return true };
        signal(child.id(), "INT");
        wait::until("muster up to end", Duration::from_secs(30), || {
            let status = child.try_wait().ok().flatten();
            async move { status }
        })
        .await
        .success()
    }

    /// Kills it with SIGKILL, like a power failure.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again with the same folder.
    pub async fn restart(&mut self) {
        let mut child = spawn(self.dir.path(), self.port, &self.flags, self.files);
        self.api = ready(self.dir.path(), &mut child).await;
        self.child = Some(child);
    }

    /// Runs `muster` against it; returns exit code, output and errors.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn muster(&self, args: &[&str]) -> (i32, String, String) {
        let output = Command::new(binary("muster"))
            .args(args)
            .env("MUSTER_URL", &self.api.url)
            .env("MUSTER_TOKEN", &self.api.token)
            .env("MUSTER_CA", self.ca())
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .output()
            .expect("muster runs");
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            signal(child.id(), "INT");
            let mut has_ended = || {
                std::thread::sleep(Duration::from_millis(50));
                child.try_wait().ok().flatten().is_some()
            };
            if !(0..200).any(|_| has_ended()) {
                let _ = child.kill();
            }
        }
        if std::thread::panicking() {
            let output = self.output();
            let tail: Vec<&str> = output.lines().rev().take(40).collect();
            eprintln!("last output of muster up:");
            for line in tail.into_iter().rev() {
                eprintln!("  {line}");
            }
        }
    }
}

/// Sends a signal to a process.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
}

fn spawn(dir: &Path, port: u16, flags: &[String], files: Option<u32>) -> Child {
    let output = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("said"))
        .expect("a file");
    let mut command = match files {
        None => Command::new(binary("muster")),
        Some(files) => {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")])
                .arg(binary("muster"));
            shell
        }
    };
    command
        .args(["up", "--port", &port.to_string(), "--data"])
        .arg(dir.join("data"))
        .args(flags)
        .env("XDG_CONFIG_HOME", dir.join("config"))
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a file"))
        .stderr(output)
        .spawn()
        .expect("muster up starts")
}

async fn ready(dir: &Path, child: &mut Child) -> Api {
    let file = dir.join("data/ready.json");
    wait::until("muster up to be ready", Duration::from_secs(60), || {
        if let Ok(Some(status)) = child.try_wait() {
            let output = std::fs::read_to_string(dir.join("said")).unwrap_or_default();
            panic!("muster up ended with {status}:\n{output}");
        }
        let found = std::fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .map(|ready| {
                let text = |name: &str| ready[name].as_str().unwrap_or_default().to_owned();
                Api::new(&text("url"), &text("token"), Path::new(&text("ca")))
            });
        async move { found }
    })
    .await
}
