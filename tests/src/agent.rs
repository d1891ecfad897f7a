//! The real agent as a separate process, with its own folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::binaries::binary;

/// A `muster-agent` on this machine.
#[derive(Debug)]
pub struct AgentProcess {
    /// Its data folder.
    pub data: PathBuf,
    variables: Vec<(String, String)>,
    child: Option<Child>,
}

impl AgentProcess {
    /// Enrolls in a folder under `dir`.
    ///
    /// # Panics
    /// When enrollment fails.
    #[must_use]
    pub fn enroll(dir: &Path, url: &str, token: &str, name: &str) -> Self {
        Self::enroll_with(dir, url, token, name, &[])
    }

    /// Enrolls with these environment variables, and uses them for later runs.
    ///
    /// # Panics
    /// When enrollment fails.
    #[must_use]
    pub fn enroll_with(
        dir: &Path,
        url: &str,
        token: &str,
        name: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let variables: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let data = dir.join(name);
        let output = Command::new(binary("muster-agent"))
            .envs(variables.iter().cloned())
            .arg("--data")
            .arg(&data)
            .args(["enroll", "--url", url, "--name", name])
            .env("MUSTER_ENROLL_TOKEN", token)
            .output()
            .expect("muster-agent runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { data, variables, child: None }
    }

    /// Creates an agent on a copy of this agent's folder, as from a cloned memory card.
    ///
    /// # Panics
    /// When the folder cannot be copied.
    #[must_use]
    pub fn cloned(&self, name: &str) -> Self {
        let data = self.data.with_file_name(name);
        let copied = Command::new("cp").arg("-a").arg(&self.data).arg(&data).status();
        assert!(copied.is_ok_and(|status| status.success()), "the folder was not copied");
        Self { data, variables: self.variables.clone(), child: None }
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it with additional arguments.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with(&mut self, args: &[&str]) {
        self.start_by(Command::new(binary("muster-agent")), args);
    }

    /// Starts it from a shell that first runs `line`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_after(&mut self, line: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{line}; exec \"$@\""), "sh"]).arg(binary("muster-agent"));
        self.start_by(shell, &[]);
    }

    fn start_by(&mut self, mut command: Command, args: &[&str]) {
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.data.with_extension("said"))
            .expect("a file");
        let child = command
            .envs(self.variables.iter().cloned())
            .arg("--data")
            .arg(&self.data)
            .arg("run")
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .spawn()
            .expect("muster-agent starts");
        self.child = Some(child);
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs `muster-agent doctor`; returns whether it found no problem, and its output.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn doctor(&self) -> (bool, String) {
        let output = Command::new(binary("muster-agent"))
            .envs(self.variables.iter().cloned())
            .arg("--data")
            .arg(&self.data)
            .arg("doctor")
            .output()
            .expect("muster-agent runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `muster-agent status --json`; returns its output.
    #[must_use]
    pub fn status(&self) -> Value {
        let output = Command::new(binary("muster-agent"))
            .arg("--data")
            .arg(&self.data)
            .args(["status", "--json"])
            .output();
        output
            .ok()
            .and_then(|output| serde_json::from_slice(&output.stdout).ok())
            .unwrap_or(Value::Null)
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let output = std::fs::read_to_string(self.data.with_extension("said"));
            let output = output.unwrap_or_default();
            let tail: Vec<&str> = output.lines().rev().take(15).collect();
            eprintln!("last output of the agent in {}:", self.data.display());
            for line in tail.into_iter().rev() {
                eprintln!("  {line}");
            }
        }
    }
}
