//! Commands on the real agent, through the real servers, from the command line.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use muster_agent::operations::INTERRUPTED;
use muster_tests::binaries::binary;
use muster_tests::fleet::Fleet;
use muster_tests::robot::online;
use muster_tests::{Robot, System, wait};
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const OPERATIONS: &str = "/api/v1/operations";

async fn run(
    system: &System,
    id: &str,
    description: &str,
    is_done: impl Fn(&Value) -> bool,
) -> Value {
    let path = format!("{OPERATIONS}/{id}/runs/robot");
    wait::until(description, WAIT_TIMEOUT, || async {
        let (status, found) = system.api.send(reqwest::Method::GET, &path, None).await;
        (status == 200 && is_done(&found)).then_some(found)
    })
    .await
}

fn shell(line: &str) -> Value {
    json!({"target": {"kind": "devices", "devices": ["robot"]}, "action": {"kind": "shell", "command": line}})
}

async fn request_operation(system: &System, body: &Value) -> String {
    system.api.post(OPERATIONS, body).await["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_inherit_nothing_from_the_agent() {
    let mut robot = Robot::start("").await;
    robot.agent.kill9();
    // Like from an installer with a narrow umask, under nohup, with an open file.
    robot.agent.start_after("trap '' HUP QUIT TSTP; umask 077; exec 7</etc/passwd");
    online(&robot.system.api).await;
    let system = &robot.system;
    let shell = |line: &str| system.muster(&["exec", "robot", "--shell", line]);
    let (_, out, _) = shell("echo $$ $(cut -d' ' -f5,6 /proc/$$/stat)");
    let ids: Vec<&str> = out.split_whitespace().collect();
    assert!(ids.len() == 3 && ids[0] == ids[1] && ids[0] == ids[2], "pid, group, session: {out}");
    let (_, out, _) = shell("umask; grep -E 'Sig(Ign|Blk)' /proc/self/status | cut -f2");
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words.first(), Some(&"0022"));
    for mask in &words[1..] {
        // Except for the two signals that the C library reserves.
        let signals = u64::from_str_radix(mask, 16).unwrap() & !0x1_8000_0000;
        assert_eq!(signals, 0, "{out}");
    }
    // The shell's own: a child's would include the libraries that it is loading.
    let (_, out, _) = shell("ls /proc/$$/fd; true");
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
    let (code, _, err) = shell("echo x >/dev/tty");
    assert!(code != 0 && err.contains("/dev/tty"), "{code}: {err}");
    let (code, out, _) =
        system.muster(&["exec", "robot", "--timeout", "20s", "--", "bash", "-ic", "echo here"]);
    assert_eq!((code, out.as_str()), (0, "here\n"));
    let (code, _, _) = system.muster(&["exec", "robot", "--timeout", "20s", "--", "bash", "-i"]);
    assert_eq!(code, 0);
    // A program of another user has only that user's groups and ids.
    let line = "id -u; grep -E '^(Uid|Gid|Groups)' /proc/self/status | tr '\\n\\t' '  '";
    let (code, out, err) = system.muster(&["exec", "robot", "-u", "daemon", "--shell", line]);
    assert!(code == 0 && out.contains("Uid: 1 1 1 1 Gid: 1 1 1 1"), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_returns_the_output_and_exit_code_of_the_program() {
    let Robot { system, agent: _agent, dir: _dir } = Robot::start("").await;
    let (code, out, err) = system.muster(&["exec", "robot", "--", "echo", "hello  world"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "hello  world\n", ""));
    let line = "echo out; echo err >&2; exit 3";
    let (code, out, err) = system.muster(&["exec", "robot", "--shell", line]);
    assert_eq!((code, out.as_str(), err.as_str()), (3, "out\n", "err\n"));
    let args = ["exec", "robot", "-e", "WORD=süß", "--cwd", "/tmp", "--shell", "pwd; echo $WORD"];
    let (code, out, _) = system.muster(&args);
    assert_eq!((code, out.as_str()), (0, "/tmp\nsüß\n"));
    let (code, _, err) = system.muster(&["exec", "robot", "--", "/no/such/program"]);
    assert!(code == 125 && err.contains("/no/such/program"), "{code}: {err}");
    let (code, _, err) = system.muster(&["exec", "robot", "-u", "nobody-here", "--", "true"]);
    assert!(code == 125 && err.contains("nobody-here"), "{code}: {err}");
    let (code, _, _) = system.muster(&["exec", "robot", "--shell", "kill -9 $$"]);
    assert_eq!(code, 128 + 9);
    let (code, _, _) = system.muster(&["exec", "robot", "--timeout", "1s", "--", "sleep", "60"]);
    assert_eq!(code, 124);
    let (code, out, _) = system.muster(&["exec", "robot", "--json", "--", "echo", "x"]);
    let result: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &result["stdout"], &result["run"]["status"]),
        (0, &"x\n".into(), &"succeeded".into())
    );
    let numbers =
        [("peak_memory_bytes", 1000.0), ("cpu_user_seconds", 0.0), ("cpu_system_seconds", 0.0)];
    for (name, least) in numbers {
        assert!(result["run"][name].as_f64() >= Some(least), "{result}");
    }

    // The log does not contain standard input.
    let mut child = Command::new(binary("muster"))
        .env("MUSTER_TOKEN", &system.api.token)
        .args(["--url", &system.api.url, "--ca"])
        .arg(system.ca())
        .args(["exec", "robot", "-i", "-e", "TOKEN=verysecret", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"binary\0\xff and secret").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"binary\0\xff and secret");
    for event in system.api.list("/api/v1/events?include=record").await {
        let text = event.to_string();
        assert!(!text.contains("verysecret") && !text.contains("and secret"), "{text}");
    }
    // The input is erased when the operation ends.
    let blobs = system.dir().join("blobs/default/operations");
    wait::until("what is private to be erased", WAIT_TIMEOUT, || async {
        let left = walk(&blobs).into_iter().filter(|path| path.ends_with("private")).count();
        (left == 0).then_some(())
    })
    .await;
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn output_arrives_while_the_program_runs_and_is_stored_up_to_the_limit() {
    let Robot { system, agent: _agent, dir: _dir } = Robot::start("").await;
    let id = request_operation(&system, &shell("echo first; sleep 20; echo last")).await;
    run(&system, &id, "it to run", |run| run["status"] == "running").await;
    let path = format!("{OPERATIONS}/{id}/runs/robot/output");
    wait::until("the first line while it runs", Duration::from_secs(10), || async {
        let (_, text) = system.api.send(reqwest::Method::GET, &path, None).await;
        (text == "first\n").then_some(())
    })
    .await;
    system.api.post(&format!("{OPERATIONS}/{id}/abort"), &json!({})).await;
    let ended = run(&system, &id, "it to be ended", |run| run["status"] == "canceled").await;
    // The device reported the end, with the output until then.
    assert!(ended["started_at"].is_string() && ended["stdout"]["size_bytes"] == 6, "{ended}");

    // Six megabytes on both outputs: the first 4 MiB of each are stored, the rest is only counted.
    let line = "head -c 6000000 /dev/zero; head -c 6000000 /dev/zero >&2";
    let id = request_operation(&system, &shell(line)).await;
    let ended = run(&system, &id, "it to end", |run| run["status"] == "succeeded").await;
    for stream in ["stdout", "stderr"] {
        assert_eq!(ended[stream]["size_bytes"], 6_000_000, "{ended}");
        assert_eq!(ended[stream]["stored_bytes"], 4 << 20, "{ended}");
        let args =
            ["operation", "output", &id, if stream == "stderr" { "--stderr" } else { "robot" }];
        let (code, out, err) = system.muster(&args);
        assert_eq!((code, out.len()), (0, 4 << 20), "{err}");
    }
    // Zeros are stored compressed.
    let bytes: u64 = walk(&system.dir().join("blobs/default/runs").join(&id))
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert!(bytes < 1 << 20, "{bytes} bytes on the disk");

    // Lines that are written one at a time are shown one at a time, and stored together.
    let line = "for i in $(seq 20); do echo line $i; sleep 0.15; done";
    let (code, out, err) = system.muster(&["exec", "robot", "--shell", line]);
    let expected: String = (1..=20).map(|i| format!("line {i}\n")).collect();
    assert_eq!((code, out), (0, expected.clone()), "{err}");
    let id = system.api.list(OPERATIONS).await[0]["id"].as_str().unwrap().to_owned();
    let (code, out, _) = system.muster(&["operation", "output", &id, "robot"]);
    assert_eq!((code, out), (0, expected));
    let kept = walk(&system.dir().join("blobs/default/runs").join(&id));
    let pieces = kept.iter().filter(|path| path.to_string_lossy().contains("stdout/0000"));
    assert_eq!(pieces.count(), 1, "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_s_policy_overrides_orders_and_is_named_in_the_reason() {
    let policy = "[exec]\nallow = [\"echo *\"]\n[power]\nreboot = false\n";
    let Robot { system, agent: _agent, dir } = Robot::start(policy).await;
    let (code, out, _) = system.muster(&["exec", "robot", "--", "echo", "allowed"]);
    assert_eq!((code, out.as_str()), (0, "allowed\n"));
    let file = dir.path().join("policy.toml");
    for args in [
        &["exec", "robot", "--", "cat", "/etc/passwd"][..],
        &["exec", "robot", "--shell", "echo allowed"],
        &["device", "reboot", "robot", "--yes"],
    ] {
        let (code, _, err) = system.muster(args);
        assert_eq!(code, 125, "{args:?}: {err}");
        assert!(err.contains("rejected") && err.contains(file.to_str().unwrap()), "{err}");
    }
    let rejected = system.api.list("/api/v1/events?type=RunRejected").await;
    assert_eq!(rejected.len(), 3);
    assert_eq!(rejected[0]["data"]["cause"], "policy", "{rejected:?}");
    // An invalid policy allows nothing.
    std::fs::write(&file, "[exec\n").unwrap();
    let (code, _, err) = system.muster(&["exec", "robot", "--", "echo", "allowed"]);
    assert!(code == 125 && err.contains("policy.toml"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_reports_interrupted_runs_and_repeats_none() {
    let Robot { system, mut agent, dir } = Robot::start("").await;
    let marker = dir.path().join("mark");
    let line = format!("echo once >> {}; sleep 60", marker.display());
    let id = request_operation(&system, &shell(&line)).await;
    run(&system, &id, "it to run", |run| run["status"] == "running").await;
    wait::until("it to begin", WAIT_TIMEOUT, || async { marker.exists().then_some(()) }).await;
    agent.kill9();
    // An operation on an offline device waits.
    let later = dir.path().join("later");
    let next =
        request_operation(&system, &shell(&format!("echo done >> {}", later.display()))).await;
    agent.start();
    let ended = run(&system, &id, "the end to be told", |run| run["status"] == "unknown").await;
    assert!(ended["explanation"].to_string().contains(INTERRUPTED), "{ended}");
    run(&system, &next, "what waited to be done", |run| run["status"] == "succeeded").await;
    assert_eq!(std::fs::read_to_string(&marker).unwrap(), "once\n");
    assert_eq!(std::fs::read_to_string(&later).unwrap(), "done\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_requests_work() {
    let Robot { system, agent, dir } = Robot::start("").await;
    let pid = agent.pid();
    let (code, _, err) = system.muster(&["device", "log-level", "debug", "robot", "--for", "1m"]);
    assert_eq!(code, 0, "{err}");
    let archive = dir.path().join("told.tar.gz");
    let (code, _, err) =
        system.muster(&["device", "diagnostics", "robot", "-o", archive.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let listed = Command::new("tar").arg("tzf").arg(&archive).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("status.json") && listed.contains("meminfo"), "{listed}");
    let (code, _, err) = system.muster(&["device", "restart-agent", "robot", "--yes"]);
    assert_eq!(code, 0, "{err}");
    online(&system.api).await;
    let (code, out, _) = system.muster(&["exec", "robot", "--", "echo", "back"]);
    assert_eq!((code, out.as_str()), (0, "back\n"));
    assert_eq!(agent.pid(), pid);
}

async fn post(fleet: &Fleet, body: &Value) -> String {
    fleet.api.post(OPERATIONS, body).await["id"].as_str().unwrap().to_owned()
}

async fn finished(fleet: &Fleet, ids: &[String]) {
    for id in ids {
        let path = format!("{OPERATIONS}/{id}");
        wait::until("every operation to be over", WAIT_TIMEOUT * 2, || async {
            let (status, found) = fleet.api.send(reqwest::Method::GET, &path, None).await;
            (status == 200 && found["status"] == "finished").then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_survive_a_kill_of_every_role_and_server() {
    let mut fleet = Fleet::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut agent = fleet.robot(dir.path()).await;
    let counted = dir.path().join("counted");
    let line = |word| format!("echo {word} >> {}; sleep 1; echo said", counted.display());
    let mut ids: Vec<String> = Vec::new();
    for round in 0..4 {
        ids.push(post(&fleet, &shell(&line(round))).await);
        match round {
            0 => fleet.command.kill9_and_restart(),
            1 => fleet.query.kill9_and_restart(),
            2 => fleet.ingest.kill9_and_restart(),
            _ => {
                fleet.nats.child().stop().await.unwrap();
                fleet.nats.child().restart().await.unwrap();
            }
        }
        fleet.wait_until_ready().await;
    }
    finished(&fleet, &ids).await;
    ids.push(post(&fleet, &shell(&line(4))).await);
    agent.kill9();
    agent.start();
    finished(&fleet, &ids).await;
    crate::faults::assert_rebuild_equals_live(&fleet).await;
    let counted = std::fs::read_to_string(&counted).unwrap_or_default();
    let times = |word: i32| counted.lines().filter(|line| *line == word.to_string()).count();
    assert_eq!([0, 1, 2, 3].map(times), [1; 4], "{counted}");
    assert!(times(4) <= 1, "the one whose agent was killed began twice: {counted}");
    for id in &ids[..4] {
        let run = fleet.api.get(&format!("{OPERATIONS}/{id}/runs/robot")).await;
        assert_eq!(run["status"], "succeeded", "{run}");
        let path = format!("{OPERATIONS}/{id}/runs/robot/output?follow=true");
        assert_eq!(fleet.api.send(reqwest::Method::GET, &path, None).await.1, "said\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_keep_their_order_while_the_work_queue_lags() {
    let fleet = Fleet::start().await;
    let dir = tempfile::tempdir().unwrap();
    let _agent = fleet.robot(dir.path()).await;
    let done = dir.path().join("done");
    let line = |word: &str| format!("echo {word} >> {}", done.display());
    let warm = post(&fleet, &shell(&line("warm"))).await;
    finished(&fleet, &[warm]).await;

    // A lock stops the dispatcher's progress in the work queue.
    let url = fleet.postgres.connection_url();
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE dispatch_v2_runs IN EXCLUSIVE MODE").await.unwrap();
    // The first waits for the dispatcher, because it has private input.
    let mut first = shell(&line("first"));
    first["action"]["env"] = json!({"TOKEN": "secret"});
    let ids = [post(&fleet, &first).await, post(&fleet, &shell(&line("second"))).await];
    // If the second had been dispatched with its request, the log would contain its order now.
    let ordered = fleet.api.list("/api/v1/events?order=asc&type=RunDispatched").await;
    assert_eq!(ordered.len(), 1, "the second came first: {ordered:?}");
    assert_eq!(std::fs::read_to_string(&done).unwrap(), "warm\n");
    client.batch_execute("ROLLBACK").await.unwrap();
    finished(&fleet, &ids).await;
    let ordered = fleet.api.list("/api/v1/events?order=asc&type=RunDispatched").await;
    let belongs_to = |at: usize, id: &str| ordered[at]["stream"].as_str().unwrap().contains(id);
    assert!(ordered.len() == 3 && belongs_to(1, &ids[0]) && belongs_to(2, &ids[1]), "{ordered:?}");
}
