//! (k) Running a program on a device and aborting it, (l) a keystroke and its echo, (m) bulk data:
//! through muster, and through OpenSSH on the same machine in the same run.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use muster_tests::agent::AgentProcess;
use muster_tests::fleet::Fleet;
use muster_tests::socket::Socket;
use muster_tests::wait;
use reqwest::Method;
use serde_json::json;

use crate::pairs::percentile;
use crate::report::{Report, Row};

const ROUNDS: usize = 100;
const ABORTS: usize = 20;
/// Maximum time from the request to abort an operation to the end of its run, in milliseconds.
const MAX_ABORT_MS: f64 = 500.0;
const KEYS: usize = 300;
const BULK: usize = 100_000_000;

/// Measures all three.
pub(crate) async fn measure(report: &mut Report) {
    let fleet = Fleet::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = fleet.api.enrollment_token(1).await;
    let mut agent = AgentProcess::enroll(dir.path(), &fleet.api.url, &token, "robot");
    agent.start();
    wait::until("it to be online", Duration::from_secs(60), || async {
        (fleet.api.get("/api/v1/devices/robot").await["status"] == "online").then_some(())
    })
    .await;
    let ssh = Ssh::start(dir.path());
    programs(&fleet, ssh.as_ref(), report).await;
    aborts(&fleet, report).await;
    keys(&fleet, ssh.as_ref(), report).await;
    bulk(&fleet, ssh.as_ref(), dir.path(), report).await;
    files(&fleet, ssh.as_ref(), dir.path(), report);
}

fn ms(started_at: Instant) -> f64 {
    started_at.elapsed().as_secs_f64() * 1000.0
}

fn both(taken: &[f64]) -> String {
    let (p50, p99) = (percentile(taken.to_vec(), 0.5), percentile(taken.to_vec(), 0.99));
    format!("p50 {p50:.1} ms, p99 {p99:.1} ms")
}

async fn programs(fleet: &Fleet, ssh: Option<&Ssh>, report: &mut Report) {
    let body = json!({"target": {"kind": "devices", "devices": ["robot"]},
        "action": {"kind": "exec", "argv": ["true"]}});
    let mut ours = Vec::new();
    for _ in 0..ROUNDS {
        let started_at = Instant::now();
        // As the command line sends it: only the output waits for the position.
        let prefer = [("prefer", "respond-async")];
        let (_, made) =
            fleet.api.send_with(Method::POST, "/api/v1/operations", &body, &prefer).await;
        let id = made["id"].as_str().unwrap();
        let position = made["position"].to_string();
        // The end of the output is the end of the run, for which `muster exec` waits.
        let path = format!("/api/v1/operations/{id}/runs/robot/output?follow=true");
        let headers = [("muster-min-position", position.as_str())];
        fleet.api.send_with(Method::GET, &path, &json!({}), &headers).await;
        ours.push(ms(started_at));
    }
    let mut start = Vec::new();
    for _ in 0..ROUNDS {
        let started_at = Instant::now();
        Command::new("true").status().unwrap();
        start.push(ms(started_at));
    }
    let bare = bare_request(fleet).await;
    let limit = 2.5 * percentile(bare.clone(), 0.5) + percentile(start, 0.5);
    let p50 = percentile(ours.clone(), 0.5);
    report.add(Row {
        description: "(k) exec of `true`, asked to answered".to_owned(),
        value: both(&ours),
        peer: format!("a bare NATS request: {}", both(&bare)),
        ratio: None,
        target: format!("p50 ≤ {limit:.1} ms"),
        is_met: Some(p50 <= limit),
    });
    let Some(ssh) = ssh else { return };
    let mut theirs = Vec::new();
    for _ in 0..ROUNDS {
        let started_at = Instant::now();
        assert!(ssh.command(&["true"]).status().unwrap().success());
        theirs.push(ms(started_at));
    }
    let is_faster = p50 <= percentile(theirs.clone(), 0.5);
    report.add(Row {
        description: "(k) the same, beside ssh".to_owned(),
        value: both(&ours),
        peer: format!("ssh over a warm ControlMaster: {}", both(&theirs)),
        ratio: Some(p50 / percentile(theirs, 0.5)),
        target: "≤ 100 %".to_owned(),
        is_met: Some(is_faster),
    });
}

/// Aborts of runs that the dispatcher started.
async fn aborts(fleet: &Fleet, report: &mut Report) {
    // With variables, the dispatcher sends the order, instead of the request handler.
    let body = json!({"target": {"kind": "devices", "devices": ["robot"]},
        "action": {"kind": "exec", "argv": ["sleep", "60"], "env": {"A": "b"}}});
    let mut taken = Vec::new();
    for _ in 0..ABORTS {
        let made = fleet.api.post("/api/v1/operations", &body).await;
        let path = format!("/api/v1/operations/{}", made["id"].as_str().unwrap());
        wait::until("the program to run", Duration::from_secs(60), || async {
            let (_, operation) = fleet.api.send(Method::GET, &path, None).await;
            (operation["run_counts"] == json!({"running": 1})).then_some(())
        })
        .await;
        let aborted_at = Instant::now();
        fleet.api.post(&format!("{path}/abort"), &json!({})).await;
        // The end of the output is the end of the run.
        let output = format!("{path}/runs/robot/output?follow=true");
        fleet.api.send(Method::GET, &output, None).await;
        taken.push(ms(aborted_at));
        assert_eq!(fleet.api.get(&path).await["run_counts"], json!({"canceled": 1}));
    }
    let is_met = percentile(taken.clone(), 0.99) <= MAX_ABORT_MS;
    report.add(Row {
        description: "(k) abort of a run, asked to ended".to_owned(),
        value: both(&taken),
        peer: String::new(),
        ratio: None,
        target: format!("p99 ≤ {MAX_ABORT_MS} ms"),
        is_met: Some(is_met),
    });
}

/// A request and its response between two clients of the same broker.
async fn bare_request(fleet: &Fleet) -> Vec<f64> {
    let (asking, answering) = (fleet.broker().await, fleet.broker().await);
    let mut questions = answering.subscribe("svc.bench").await.unwrap();
    wait::flush(&answering).await;
    let responder = tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let reply = question.reply.unwrap();
            answering.publish(reply, question.payload).await.unwrap();
        }
    });
    let mut taken = Vec::new();
    for _ in 0..ROUNDS {
        let started_at = Instant::now();
        asking.request("svc.bench", "x".into()).await.unwrap();
        taken.push(ms(started_at));
    }
    responder.abort();
    taken
}

const SHELL: &str = "/api/v1/devices/robot/shell?cols=100&rows=30";

async fn keys(fleet: &Fleet, ssh: Option<&Ssh>, report: &mut Report) {
    let mut shell = Socket::open(&fleet.api, &fleet.ca(), SHELL, &[]).await.unwrap();
    shell.send("exec cat\r").await;
    shell.wait_for_output("exec cat\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut ours = Vec::new();
    for _ in 0..KEYS {
        let before = shell.output.len();
        let started_at = Instant::now();
        shell.send("x").await;
        while shell.output.len() == before {
            assert!(shell.next().await);
        }
        ours.push(ms(started_at));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let theirs = ssh.map(|ssh| {
        let mut child = ssh.piped(&["-tt"], "cat");
        let (mut write, mut read) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        std::thread::sleep(Duration::from_millis(500));
        let mut taken = Vec::new();
        for _ in 0..KEYS {
            let started_at = Instant::now();
            write.write_all(b"x").unwrap();
            read.read_exact(&mut [0]).unwrap();
            taken.push(ms(started_at));
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        taken
    });
    let ratio = theirs
        .as_ref()
        .map(|theirs| percentile(ours.clone(), 0.5) / percentile(theirs.clone(), 0.5));
    report.add(Row {
        description: "(l) a key and its echo".to_owned(),
        value: both(&ours),
        peer: theirs.map_or("no ssh here".to_owned(), |theirs| format!("ssh: {}", both(&theirs))),
        ratio,
        target: "≤ 120 %".to_owned(),
        is_met: ratio.map(|ratio| ratio <= 1.2),
    });
}

/// Transfers log lines, which compress well, and random bytes, which do not.
async fn bulk(fleet: &Fleet, ssh: Option<&Ssh>, dir: &Path, report: &mut Report) {
    let mut log = String::with_capacity(BULK);
    for at in 0_usize.. {
        let (levels, parts) = (["INFO", "WARN", "DEBUG"], ["link", "outbox", "sampler", "shell"]);
        let number = at.wrapping_mul(2_654_435_761) % 1_000_003;
        let (level, part) = (levels[number % 3], parts[number % 4]);
        log.push_str(&format!(
            "2026-11-25T08:{:02}:{:02}.{number:06}Z {level} {part}: request {at} took {} us\n",
            at / 60 % 60,
            at % 60,
            number % 977
        ));
        if log.len() >= BULK {
            break;
        }
    }
    let noise: Vec<u8> = (0..BULK).map(|at| if at % 77 == 76 { b'\n' } else { letter() }).collect();
    for (what, bytes) in [("a log", log.into_bytes()), ("random letters", noise)] {
        let file = dir.join("shown");
        std::fs::write(&file, &bytes).unwrap();
        let line = format!("cat {}", file.display());
        let path = format!("{SHELL}&record=false&command={}", line.replace(' ', "%20"));
        let started_at = Instant::now();
        let mut shell = Socket::open(&fleet.api, &fleet.ca(), &path, &[]).await.unwrap();
        while shell.next().await {}
        assert!(shell.output.len() >= bytes.len(), "{} bytes came", shell.output.len());
        let ours = bytes.len() as f64 / 1e6 / started_at.elapsed().as_secs_f64();
        let theirs = ssh.map(|ssh| {
            let started_at = Instant::now();
            let mut child = ssh.piped(&["-tt"], &line);
            let mut all = Vec::with_capacity(bytes.len());
            child.stdout.take().unwrap().read_to_end(&mut all).unwrap();
            let _ = child.wait();
            bytes.len() as f64 / 1e6 / started_at.elapsed().as_secs_f64()
        });
        let ratio = theirs.map(|theirs| ours / theirs);
        report.add(Row {
            description: format!("(m) {what}, shown by a terminal"),
            value: format!("{ours:.0} MB/s"),
            peer: theirs
                .map_or("no ssh here".to_owned(), |theirs| format!("ssh: {theirs:.0} MB/s")),
            ratio,
            target: "≥ 80 %".to_owned(),
            is_met: ratio.map(|ratio| ratio >= 0.8),
        });
    }
}

fn letter() -> u8 {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    LETTERS[rand::random::<u8>() as usize % 64]
}

/// Copies a file to the device and back: by `muster cp`, which verifies the copy, and by scp.
fn files(fleet: &Fleet, ssh: Option<&Ssh>, dir: &Path, report: &mut Report) {
    let here = dir.join("file");
    // Incompressible data.
    let mut bytes = vec![0; BULK];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    std::fs::write(&here, &bytes).unwrap();
    let rate = |command: &mut Command| {
        let started_at = Instant::now();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        BULK as f64 / 1e6 / started_at.elapsed().as_secs_f64()
    };
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (there, back) = (text(&dir.join("there")), text(&dir.join("back")));
    let ways = [("to a device", text(&here), None), ("from a device", there.clone(), Some(back))];
    for (what, from, to) in ways {
        let (from_there, target) = (to.is_some(), to.unwrap_or_else(|| there.clone()));
        let pair = |device: &str| {
            let remote = |path: &str| format!("{device}:{path}");
            if from_there {
                [remote(&from), target.clone()]
            } else {
                [from.clone(), remote(&target)]
            }
        };
        let mut ours = Command::new(muster_tests::binaries::binary("muster"));
        ours.arg("cp").arg("--again").args(pair("robot"));
        ours.env("MUSTER_URL", &fleet.api.url).env("MUSTER_TOKEN", &fleet.api.token);
        let ours = rate(ours.env("MUSTER_CA", fleet.ca()));
        assert!(std::fs::read(&target).unwrap() == bytes, "equal bytes");
        let theirs = ssh.map(|ssh| {
            let mut scp = Command::new("scp");
            rate(scp.arg("-q").args(&ssh.options).args(pair("127.0.0.1")))
        });
        let ratio = theirs.map(|theirs| ours / theirs);
        report.add(Row {
            description: format!("(m) a file {what}, compared"),
            value: format!("{ours:.0} MB/s"),
            peer: theirs
                .map_or("no ssh here".to_owned(), |theirs| format!("scp: {theirs:.0} MB/s")),
            ratio,
            target: "≥ 80 %".to_owned(),
            is_met: ratio.map(|ratio| ratio >= 0.8),
        });
    }
}

/// An sshd of the benchmark, and an established connection to it.
struct Ssh {
    server: Child,
    options: Vec<String>,
}

impl Ssh {
    /// Starts it; `None` without sshd.
    fn start(dir: &Path) -> Option<Self> {
        if !Path::new("/usr/sbin/sshd").exists() {
            return None;
        }
        let dir = dir.join("ssh");
        std::fs::create_dir(&dir).ok()?;
        for name in ["host", "client"] {
            let path = dir.join(name);
            let args = ["-q", "-t", "ed25519", "-N", "", "-f"];
            assert!(Command::new("ssh-keygen").args(args).arg(path).status().ok()?.success());
        }
        std::fs::copy(dir.join("client.pub"), dir.join("authorized")).ok()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nPidFile none\nUsePAM no\n\
             AuthorizedKeysFile {0}/authorized\nStrictModes no\nSubsystem sftp internal-sftp\n",
            dir.display()
        );
        std::fs::write(dir.join("config"), config).ok()?;
        let _ = std::fs::create_dir_all("/run/sshd");
        let server = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(dir.join("config"))
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let options = [
            format!("UserKnownHostsFile={}/known", dir.display()),
            format!("IdentityFile={}/client", dir.display()),
            format!("ControlPath={}/master", dir.display()),
            format!("Port={port}"),
            "ControlMaster=auto".to_owned(),
            "ControlPersist=60".to_owned(),
            "StrictHostKeyChecking=accept-new".to_owned(),
            "BatchMode=yes".to_owned(),
            "LogLevel=QUIET".to_owned(),
            // Older versions do not have the next option, and do not obscure keystrokes.
            "IgnoreUnknown=ObscureKeystrokeTiming".to_owned(),
            "ObscureKeystrokeTiming=no".to_owned(),
        ];
        let options = options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect();
        let ssh = Self { server, options };
        std::thread::sleep(Duration::from_millis(500));
        ssh.command(&["true"]).status().ok()?.success().then_some(ssh)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(&self.options).arg("127.0.0.1").args(args).stdin(Stdio::null());
        command
    }

    fn piped(&self, flags: &[&str], command: &str) -> Child {
        Command::new("ssh")
            .args(&self.options)
            .args(flags)
            .args(["127.0.0.1", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = Command::new("ssh").args(&self.options).args(["-O", "exit", "127.0.0.1"]).status();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
