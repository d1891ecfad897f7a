//! An unresponsive file system: the agent stays online, and actions that need the file system fail
//! with its path.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use muster_agent::subprocess::unresponsive_message;
use muster_tests::robot::online;
use muster_tests::system::signal;
use muster_tests::{Robot, System, wait};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time until the failure is reported: the agent's timeout is 10 s, the rest is reserve.
const REPORT_TIMEOUT: Duration = Duration::from_secs(25);

/// Whether a text contains the agent's message for a file system that does not respond.
fn has_no_answer(text: &str) -> bool {
    unresponsive_message("\0").split('\0').all(|part| text.contains(part))
}

/// A FUSE file system whose server reads every request and responds to none.
struct DeadMount(PathBuf);

impl DeadMount {
    fn new(at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let kind = Some("fuse");
        mount(Some("dead"), &at, kind, MsFlags::empty(), Some(data.as_str())).unwrap_or_else(
            |error| panic!("failed to mount, which needs root and /dev/fuse: {error}"),
        );
        std::thread::spawn(move || serve(device));
        Self(at)
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

/// Responds to the first request, FUSE_INIT, and reads the others until the file system is
/// unmounted.
fn serve(mut device: File) {
    let mut request = vec![0; 1 << 20];
    let Ok(count) = device.read(&mut request) else { return };
    let head = &request[..count];
    assert_eq!(head[4..8], 26_u32.to_ne_bytes(), "FUSE_INIT is first");
    // fuse_out_header and fuse_init_out of protocol 7.31.
    let mut response = Vec::new();
    response.extend(80_u32.to_ne_bytes());
    response.extend(0_u32.to_ne_bytes());
    response.extend(&head[8..16]);
    for word in [7_u32, 31, 65536, 0] {
        response.extend(word.to_ne_bytes());
    }
    response.extend([0; 4]);
    response.extend(4096_u32.to_ne_bytes());
    response.resize(80, 0);
    device.write_all(&response).unwrap();
    while device.read(&mut request).is_ok() {}
}

impl Drop for DeadMount {
    fn drop(&mut self) {
        // Forced: pending requests end with an error.
        let _ = umount2(&self.0, MntFlags::MNT_FORCE);
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A user of this machine whose home does not exist.
fn user_without_home() -> (String, PathBuf) {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let homeless = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let home = Path::new(fields.get(5)?);
        let is_free = fields[2] != "0"
            && !home.exists()
            && home != Path::new("/nonexistent")
            && home.parent().is_some_and(Path::is_dir);
        is_free.then(|| (fields[0].to_owned(), home.to_owned()))
    });
    homeless.unwrap_or_else(|| panic!("this test needs a user whose home can be made"))
}

/// Runs a command that needs the unresponsive file system; returns its error output.
fn fails(system: &System, args: &[&str]) -> String {
    let started_at = Instant::now();
    let (code, _, err) = system.muster(args);
    assert!(code != 0 && has_no_answer(&err), "{args:?}: {code}: {err}");
    assert!(started_at.elapsed() < REPORT_TIMEOUT, "{args:?} took {:?}", started_at.elapsed());
    err
}

/// Asserts that the agent works while other actions wait for the file system.
fn assert_agent_works(robot: &Robot) {
    let started_at = Instant::now();
    let (code, out, err) = robot.system.muster(&["exec", "robot", "--", "echo", "alive"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "alive\n", ""));
    assert!(robot.agent.status()["connected_since"].is_string());
    assert!(started_at.elapsed() < Duration::from_secs(8), "it took {:?}", started_at.elapsed());
}

fn background(system: &System, args: &[&str]) -> Child {
    Command::new(muster_tests::binaries::binary("muster"))
        .env("MUSTER_TOKEN", &system.api.token)
        .args(["--url", &system.api.url, "--ca"])
        .arg(system.ca())
        .args(args)
        .spawn()
        .unwrap()
}

/// The message of a skipped test.
const SKIPPED: &str = "skipped: to mount a file system needs root and /dev/fuse";

fn can_mount() -> bool {
    nix::unistd::Uid::effective().is_root() && Path::new("/dev/fuse").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unresponsive_file_system_blocks_nothing_else() {
    if !can_mount() {
        eprintln!("{SKIPPED}");
        return;
    }
    let robot = Robot::start("").await;
    let dead = DeadMount::new(robot.dir.path().join("above/dead"));
    let (user, home) = user_without_home();
    let dead_home = DeadMount::new(home.clone());
    let local = robot.dir.path().join("copy");
    let local = local.to_str().unwrap();
    let above = robot.dir.path().join("above");
    std::fs::write(above.join("file"), "x").unwrap();
    let remote = |path: &str| format!("robot:{path}");
    let (cwd, program, file) = (dead.at("cwd"), dead.at("program"), remote(&dead.at("file")));
    let above = remote(above.to_str().unwrap());
    let system = &robot.system;
    let all: [&[&str]; 7] = [
        &["exec", "robot", "--cwd", &cwd, "--", "true"],
        &["exec", "robot", "--", &program],
        &["exec", "robot", "--user", &user, "--", "true"],
        &["shell", "robot", "--user", &user, "--", "true"],
        &["cp", &file, local],
        &["cp", &above, local],
        &["cp", &above, local],
    ];
    std::thread::scope(|scope| {
        let waiting: Vec<_> =
            all.iter().map(|args| scope.spawn(move || fails(system, args))).collect();
        // Between the requests and their failure after 10 s.
        while waiting.iter().any(|thread| !thread.is_finished()) {
            assert_agent_works(&robot);
        }
        for (args, thread) in all.iter().zip(waiting) {
            let err = thread.join().unwrap();
            let is_home = args.contains(&user.as_str());
            let location = if is_home { &home } else { &dead.0 };
            // For a folder above the mount, the message contains that folder.
            let is_above = args.contains(&above.as_str());
            let location = if is_above {
                above.trim_start_matches("robot:")
            } else {
                location.to_str().unwrap()
            };
            assert!(err.contains(location), "{args:?}: {err}");
        }
    });

    let upload = json!({
        "target": {"kind": "devices", "devices": ["robot"]},
        "action": {"kind": "upload", "path": dead.at("file")},
    });
    let id = system.api.post("/api/v1/operations", &upload).await["id"].clone();
    let path = format!("/api/v1/operations/{}/runs/robot", id.as_str().unwrap());
    wait::until("the upload to fail", WAIT_TIMEOUT, || async {
        let (_, run) = system.api.send(reqwest::Method::GET, &path, None).await;
        (run["status"] == "failed" && has_no_answer(&run.to_string())).then_some(())
    })
    .await;

    // A run's own timeout takes effect, too.
    let args = ["exec", "robot", "--timeout", "2s", "--cwd", &cwd, "--", "true"];
    assert_eq!(system.muster(&args).0, 124);

    // The file system is unmounted.
    drop((dead, dead_home));
    std::fs::create_dir_all(&cwd).unwrap();
    let (code, _, err) = system.muster(&["exec", "robot", "--cwd", &cwd, "--", "true"]);
    assert_eq!((code, err.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_restarts_despite_an_unresponsive_file_system() {
    if !can_mount() {
        eprintln!("{SKIPPED}");
        return;
    }
    let mut robot = Robot::start("").await;
    let dead = DeadMount::new(robot.dir.path().join("dead"));
    let file = format!("robot:{}", dead.at("file"));
    let local = robot.dir.path().join("copy");
    let mut copy = background(&robot.system, &["cp", &file, local.to_str().unwrap()]);
    let body = json!({
        "target": {"kind": "devices", "devices": ["robot"]},
        "action": {"kind": "exec", "argv": ["true"], "cwd": dead.at("cwd")},
    });
    let id = robot.system.api.post("/api/v1/operations", &body).await["id"].clone();
    let path = format!("/api/v1/operations/{}/runs/robot", id.as_str().unwrap());
    let state = |expected: &'static [&'static str]| {
        let (api, path) = (&robot.system.api, &path);
        wait::until("the run to come so far", WAIT_TIMEOUT, move || async move {
            let (_, run) = api.send(reqwest::Method::GET, path, None).await;
            expected.iter().any(|state| run["status"] == *state).then_some(run)
        })
    };
    state(&["accepted"]).await;

    let pid = robot.agent.pid();
    signal(pid, "TERM");
    let started_at = Instant::now();
    wait::until("the agent to end", WAIT_TIMEOUT, || async { is_over(pid).then_some(()) }).await;
    assert!(started_at.elapsed() < Duration::from_secs(5), "it took {:?}", started_at.elapsed());

    // The journal contains the run, and the next agent process ends it.
    robot.agent.start();
    online(&robot.system.api).await;
    let run = state(&["unknown", "failed", "succeeded"]).await;
    assert_eq!(run["status"], "unknown", "{run}");
    assert_agent_works(&robot);
    let _ = copy.kill();
    let _ = copy.wait();
}

/// Whether the process has ended; the test is its parent and has not waited for it.
fn is_over(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z'))
}
