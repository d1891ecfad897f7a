//! `muster up`: on a chosen address, stopped during its start, with a home that is not writable,
//! with an agent that ends.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_tests::agent::AgentProcess;
use muster_tests::binaries::binary;
use muster_tests::system::signal;
use muster_tests::{System, wait};
use serde_json::Value;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// This machine's device, once it is online; not the one with the id `but`.
async fn own_device(system: &System, except: Option<&str>) -> Value {
    wait::until("this machine's device", WAIT_TIMEOUT, || async {
        let devices = system.api.list("/api/v1/devices?status=online").await;
        devices.into_iter().find(|device| device["id"].as_str() != except)
    })
    .await
}

async fn wait_for_output(system: &System, text: &str) {
    wait::until(text, WAIT_TIMEOUT, || async { system.output().contains(text).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn muster_up_listens_on_the_given_address() {
    let mut system = System::start_with(&["--listen", "127.0.0.2"]).await;
    assert!(system.api.url.contains("127.0.0.2"), "{}", system.api.url);
    own_device(&system, None).await;
    assert!(system.stop().await, "{}", system.output());

    let on_six = System::start_with(&["--listen", "::1"]).await;
    assert!(on_six.api.url.contains("[::1]"), "{}", on_six.api.url);
    own_device(&on_six, None).await;
}

/// `muster up` with a port that it chooses.
fn up(dir: &Path, config: &Path) -> Child {
    let output = std::fs::File::create(dir.join("said")).unwrap();
    Command::new(binary("muster"))
        .args(["up", "--no-agent", "--port", "0", "--data"])
        .arg(dir.join("data"))
        .env("XDG_CONFIG_HOME", config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .unwrap()
}

async fn ends_well(mut child: Child) -> bool {
    signal(child.id(), "INT");
    wait::until("muster up to end", WAIT_TIMEOUT, || {
        let status = child.try_wait().unwrap();
        async move { status }
    })
    .await
    .success()
}

#[tokio::test(flavor = "multi_thread")]
async fn muster_up_stops_during_startup_and_runs_without_a_home() {
    let dir = tempfile::tempdir().unwrap();
    let output = || std::fs::read_to_string(dir.path().join("said")).unwrap_or_default();
    let wait_for = |file: &'static str| {
        let path = dir.path().join("data").join(file);
        wait::until(file, WAIT_TIMEOUT, move || {
            let is_there = path.exists().then_some(());
            async move { is_there }
        })
    };
    // Before any server runs, and while PostgreSQL creates its folder.
    for file in ["lock", "postgres"] {
        let _ = std::fs::remove_dir_all(dir.path().join("data"));
        let child = up(dir.path(), dir.path());
        wait_for(file).await;
        assert!(ends_well(child).await, "{}", output());
        assert!(!dir.path().join("data/ready.json").exists(), "{}", output());
    }
    // The next start continues, although no context can be stored, and the chosen port is kept.
    let mut ports = Vec::new();
    for _ in 0..2 {
        let child = up(dir.path(), &dir.path().join("said"));
        wait_for("ready.json").await;
        let ready = std::fs::read(dir.path().join("data/ready.json")).unwrap();
        let ready: Value = serde_json::from_slice(&ready).unwrap();
        let url = ready["url"].as_str().unwrap().to_owned();
        assert!(!url.ends_with(":0"), "{url}");
        ports.push(url);
        assert!(ends_well(child).await, "{}", output());
        assert!(output().contains("!!") && output().contains("MUSTER_TOKEN"), "{}", output());
    }
    assert_eq!(ports[0], ports[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_agent_is_reported_and_re_enrolls_when_necessary() {
    let mut system = System::start_with(&[]).await;
    let first = own_device(&system, None).await;
    let id = first["id"].as_str().unwrap();

    let pid = system.dir().join("agent-process/muster-agent.pid");
    let pid = std::fs::read_to_string(pid).unwrap();
    signal(pid.split_whitespace().next().unwrap().parse().unwrap(), "KILL");
    wait_for_output(&system, "!! muster-agent").await;
    wait::until("the agent to be restarted", WAIT_TIMEOUT, || async {
        let output = system.output();
        output.rsplit("!! muster-agent").next()?.contains("ok muster-agent").then_some(())
    })
    .await;

    // Deleted while it runs: reported, and enrolled again at the next start.
    let (code, _, err) = system.muster(&["device", "delete", id, "--yes"]);
    assert_eq!(code, 0, "{err}");
    wait_for_output(&system, "deleted").await;
    assert!(system.stop().await, "{}", system.output());
    system.restart().await;
    let second = own_device(&system, Some(id)).await;
    assert_eq!(second["name"], first["name"]);

    // Without its folder the agent is not enrolled; the machine becomes the same device again.
    assert!(system.stop().await, "{}", system.output());
    std::fs::remove_dir_all(system.dir().join("agent")).unwrap();
    system.restart().await;
    let third = own_device(&system, None).await;
    assert_eq!(third["id"], second["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_offline_after_the_configured_silence() {
    let system = System::start_with(&["--no-agent", "--offline-after", "3s"]).await;
    let dir = tempfile::tempdir().unwrap();
    let token = system.api.enrollment_token(1).await;
    let mut agent = AgentProcess::enroll(dir.path(), &system.api.url, &token, "robot");
    agent.start();
    let status = |expected: &'static str, within: u64| {
        let api = system.api.clone();
        async move {
            wait::until(expected, Duration::from_secs(within), || async {
                let device = api.get("/api/v1/devices/robot").await;
                (device["status"] == expected).then_some(())
            })
            .await;
        }
    };
    status("online", 30).await;
    signal(agent.pid(), "STOP");
    // With the default it would take 40 to 60 s.
    status("offline", 25).await;
    signal(agent.pid(), "CONT");
    status("online", 60).await;
}

/// What an agent writes on its standard error, read by a thread that can pause: then the pipe is full
/// after a few lines, and a write stands still.
struct Reader(std::sync::Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>);

impl Reader {
    fn start(mut pipe: std::io::PipeReader) -> Self {
        let paused = std::sync::Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
        let shared = std::sync::Arc::clone(&paused);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let waited = shared.1.wait_while(shared.0.lock().unwrap(), |paused| *paused);
                drop(waited.unwrap());
                if !std::io::Read::read(&mut pipe, &mut buffer).is_ok_and(|count| count > 0) {
                    return;
                }
            }
        });
        Self(paused)
    }

    fn pause(&self, paused: bool) {
        *self.0.0.lock().unwrap() = paused;
        self.0.1.notify_all();
    }
}

/// The agent's only thread feeds systemd's watchdog: when it stands still (here in a write to a
/// full pipe) the notifications stop, and systemd would restart it.
#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_notified_only_while_the_main_loop_runs() {
    const ALLOWED: Duration = Duration::from_secs(3);
    let system = System::start_with(&["--no-agent"]).await;
    let dir = tempfile::tempdir().unwrap();
    let token = system.api.enrollment_token(1).await;
    let robot = AgentProcess::enroll(dir.path(), &system.api.url, &token, "robot");
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let reader = Reader::start(reader);
    let mut agent = Command::new(binary("muster-agent"))
        .arg("--data")
        .arg(&robot.data)
        .arg("run")
        .env("MUSTER_LOG", "trace")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", ALLOWED.as_micros().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    // A notification within a time?
    let fed_within = |time: Duration| {
        socket.set_read_timeout(Some(time)).unwrap();
        let mut buffer = [0; 64];
        let count = socket.recv(&mut buffer).ok()?;
        assert_eq!(&buffer[..count], b"WATCHDOG=1");
        Some(())
    };
    let checked = tokio::task::block_in_place(|| {
        fed_within(WAIT_TIMEOUT).ok_or("never fed")?;
        for _ in 0..5 {
            fed_within(ALLOWED).ok_or("fed too late")?;
        }
        reader.pause(true);
        let started_at = std::time::Instant::now();
        while fed_within(ALLOWED * 2).is_some() {
            if started_at.elapsed() > WAIT_TIMEOUT {
                return Err("fed although the loop stands still");
            }
        }
        reader.pause(false);
        fed_within(WAIT_TIMEOUT).ok_or("not fed again")
    });
    agent.kill().unwrap();
    agent.wait().unwrap();
    checked.unwrap();
}
