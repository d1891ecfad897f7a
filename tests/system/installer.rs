//! The command line printed by `muster token create`, run unmodified.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use muster_tests::{System, wait};

/// The part of the line that makes it root.
const SUDO: &str = "sudo --preserve-env=MUSTER_ENROLL_TOKEN sh";
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Separate folders of a machine, and the agent that the line starts.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Runs a line as root would, with the machine's folders.
    fn run(&self, line: &str) -> Output {
        // From a file, like in an interactive shell: not as an argument of `sh -c`.
        let script = self.path("line");
        std::fs::write(&script, line.replace(SUDO, "sh")).unwrap();
        Command::new("sh")
            .arg(&script)
            .env("MUSTER_PREFIX", self.path("usr"))
            .env("MUSTER_AGENT_DATA", self.path("data"))
            .output()
            .unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.path("data/agent.pid")) {
            let _ = Command::new("kill").arg(pid.trim()).status();
        }
    }
}

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn line(system: &System, more: &[&str]) -> String {
    let args = ["token", "create", "--ttl", "10m", "--uses", "3", "--label", "site=a"];
    let (code, out, err) = system.muster(&[&args[..], more].concat());
    assert_eq!(code, 0, "{err}");
    assert_eq!(out.trim().lines().count(), 1, "one line to copy: {out}");
    out.trim().to_owned()
}

fn token_of(line: &str) -> &str {
    let token = line.split("MUSTER_ENROLL_TOKEN=").nth(1).unwrap().split(' ').next().unwrap();
    assert!(token.starts_with("mse_"), "{line}");
    token
}

/// The arguments of all processes of this machine.
fn arguments() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let read = |process: std::fs::DirEntry| std::fs::read(process.path().join("cmdline")).ok();
    processes.filter_map(read).map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
}

async fn online(system: &System, name: &str) {
    wait::until(&format!("{name} to be online"), WAIT_TIMEOUT, || async {
        let path = format!("/api/v1/devices?status=online&search={name}");
        let found = system.api.list(&path).await;
        found.iter().any(|device| device["labels"]["site"] == "a").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_installer_enrolls_a_machine_and_is_idempotent() {
    let system = System::start_with(&["--no-agent"]).await;
    let machine = Machine::new();
    let line = line(&system, &[]);
    // After a kill at any point, the same line completes the installation.
    for seconds in ["0.1", "0.3", "0.6"] {
        let killed = Command::new("timeout")
            .args(["-s", "KILL", seconds, "sh", "-c", &line.replace(SUDO, "sh")])
            .env("MUSTER_PREFIX", machine.path("usr"))
            .env("MUSTER_AGENT_DATA", machine.path("data"))
            .output()
            .unwrap();
        assert!(!killed.status.success());
    }
    let token = token_of(&line).to_owned();
    let ended = Arc::new(AtomicBool::new(false));
    let watch = {
        let ended = Arc::clone(&ended);
        std::thread::spawn(move || {
            let (mut looks, mut shown) = (0, Vec::new());
            while !ended.load(Ordering::Relaxed) {
                looks += 1;
                shown.extend(arguments().into_iter().filter(|line| line.contains(&token)));
            }
            (looks, shown)
        })
    };
    let first = machine.run(&format!("{line} --name kiosk"));
    ended.store(true, Ordering::Relaxed);
    let (looks, shown) = watch.join().unwrap();
    assert!(looks > 20 && shown.is_empty(), "{looks} looks: {shown:?}");
    assert!(first.status.success(), "{}", output_text(&first));
    for step in ["[1/6]", "[6/6]", "connected"] {
        assert!(output_text(&first).contains(step), "{}", output_text(&first));
    }
    online(&system, "kiosk").await;
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(&machine.path("usr/bin/muster-agent")), 0o755);
    assert!(
        !std::fs::read_dir(machine.path("data"))
            .unwrap()
            .flatten()
            .any(|file| { file.file_name().to_string_lossy().starts_with(".token") })
    );

    // A second run updates the agent, keeps the device, and uses up no use of the token.
    let second = machine.run(&line);
    let log = std::fs::read_to_string(machine.path("data/agent.log")).unwrap_or_default();
    assert!(second.status.success(), "{}\n{log}", output_text(&second));
    assert!(output_text(&second).contains("kiosk"), "{}", output_text(&second));
    let tokens = system.api.list("/api/v1/enrollment-tokens").await;
    assert!(tokens.iter().any(|token| token["use_count"] == 1), "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn installer_errors_have_a_code_and_a_remedy() {
    let system = System::start_with(&["--no-agent"]).await;
    let line = line(&system, &[]);
    let fails = |line: &str, code: &str| {
        let machine = Machine::new();
        let failed = machine.run(line);
        assert!(!failed.status.success(), "{line}");
        assert!(output_text(&failed).contains(code), "{code}: {}", output_text(&failed));
    };
    // With another server's key, nothing is run.
    let pin = line.split('\'').nth(1).unwrap();
    let other = format!("sha256//{}=", "A".repeat(43));
    let machine = Machine::new();
    let output = machine.run(&line.replace(pin, &other));
    assert!(!machine.path("data").exists(), "{}", output_text(&output));

    let token = token_of(&line);
    fails(&line.replace(token, "nonsense"), "M09");
    fails(&format!("{line} nonsense"), "M12");
    // Every user of the machine could read a token in the arguments.
    fails(&format!("{line} {token}"), "M13");
    fails(&line.replace(token, ""), "M08");
    fails(&line.replace(token, &format!("{}A", &token[..token.len() - 1])), "M09");
    fails(&format!("{line} --label"), "M12");
    let id =
        system.api.list("/api/v1/enrollment-tokens").await[0]["id"].as_str().unwrap().to_owned();
    let (code, _, err) = system.muster(&["token", "revoke", &id, "--yes"]);
    assert_eq!(code, 0, "{err}");
    fails(&line, "M09");

    let (status, problem) = system.api.send(reqwest::Method::GET, "/agent/vax", None).await;
    assert_eq!(status, 404);
    assert!(problem["detail"].as_str().unwrap().contains(std::env::consts::ARCH), "{problem}");
}
