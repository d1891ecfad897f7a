//! Tests that no server outlives the process that started it: as root, and as an unprivileged user.
#![cfg(test)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_muster-backing");

struct Owner {
    process: Child,
    ready_report: Value,
}

impl Owner {
    fn start(mut command: Command, dir: &Path) -> Self {
        let mut process = command
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it did not start; see above");
        Self { process, ready_report: serde_json::from_str(&line).unwrap() }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn stop(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }

    fn pids(&self) -> Vec<u64> {
        ["postgres", "nats", "influx"]
            .iter()
            .map(|name| self.ready_report[name]["pid"].as_u64().unwrap())
            .collect()
    }
}

fn is_running(pid: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !matches!(stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]), Some("Z" | "X") | None)
    })
}

fn wait_for_end(pids: &[u64]) {
    let started_at = Instant::now();
    while pids.iter().any(|pid| is_running(*pid)) {
        assert!(started_at.elapsed() < Duration::from_secs(20), "still running: {pids:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn servers_end_with_their_killed_owner_and_a_new_owner_starts_immediately() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Owner::start(Command::new(PROGRAM), dir.path());
    let pids = first.pids();
    assert!(pids.iter().all(|pid| is_running(*pid)));
    first.kill();
    let mut second = Owner::start(Command::new(PROGRAM), dir.path());
    wait_for_end(&pids);
    let pids = second.pids();
    // No later owner ends these processes: only the kernel's signal does.
    second.kill();
    wait_for_end(&pids);
}

/// As root: PostgreSQL runs as another user, from a folder that only root can traverse. As an
/// unprivileged user: all servers run as that user.
#[test]
fn servers_run_in_a_folder_that_only_its_owner_can_access() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let owner = Owner::start(Command::new(PROGRAM), &dir.path().join("deep/er"));
    let me = Uid::effective();
    let owner_of = |pid: u64| fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    let [postgres, nats, influx] = owner.pids()[..] else { panic!("three servers") };
    assert_eq!((owner_of(nats), owner_of(influx)), (me.as_raw(), me.as_raw()));
    assert_eq!(owner_of(postgres) == me.as_raw(), !me.is_root(), "PostgreSQL never runs as root");
    owner.stop();
}

/// As root: repeats the start as an unprivileged user. Otherwise the test above has already done
/// it.
#[test]
fn an_unprivileged_user_can_start_everything() {
    let dir = tempfile::tempdir().unwrap();
    let bin = tempfile::tempdir().unwrap();
    let command = if Uid::effective().is_root() {
        let bin = bin.path();
        let nobody = User::from_name("nobody").unwrap().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw()))
            .unwrap();
        fs::set_permissions(bin, fs::Permissions::from_mode(0o755)).unwrap();
        let places = muster_backing::find::SearchPath::from_env();
        for (from, to) in [
            (Path::new(PROGRAM), "muster-backing"),
            (&places.nats_server().unwrap(), "nats-server"),
            (&places.influxd().unwrap(), "influxd"),
        ] {
            fs::copy(from, bin.join(to)).unwrap();
        }
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={}", nobody.uid), format!("--regid={}", nobody.gid)])
            .args(["--clear-groups", "--pdeathsig=KILL", "--"])
            .arg(bin.join("muster-backing"))
            .env("MUSTER_NATS_SERVER", bin.join("nats-server"))
            .env("MUSTER_INFLUXD", bin.join("influxd"))
            .env_remove("MUSTER_CACHE");
        command
    } else {
        Command::new(PROGRAM)
    };
    let owner = Owner::start(command, dir.path());
    owner.stop();
}
