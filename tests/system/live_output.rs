//! Output of programs beyond the 4 MiB that are stored: a follower gets all of it, however slow it
//! is; without a follower it is dropped, and every view of the output reports that.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_tests::binaries::binary;
use muster_tests::robot::Robot;
use muster_tests::text::has_number;
use muster_tests::{System, wait};
use serde_json::Value;

const STORED_BYTES: usize = 4 << 20;
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

fn muster(system: &System, args: &[&str]) -> Child {
    Command::new(binary("muster"))
        .args(args)
        .env("MUSTER_URL", &system.api.url)
        .env("MUSTER_TOKEN", &system.api.token)
        .env("MUSTER_CA", system.ca())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn writes(bytes: usize) -> String {
    format!("yes | head -c {bytes}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_all_output_and_a_slow_follower_delays_the_program() {
    let robot = Robot::start("").await;
    let system = &robot.system;
    let bytes = 9_000_001;
    let (code, out, err) = system.muster(&["exec", "robot", "--shell", &writes(bytes)]);
    assert_eq!((code, out.len(), err.as_str()), (0, bytes, ""));
    assert!(out.as_bytes().chunks(2).all(|chunk| b"y\n".starts_with(chunk)), "bytes are mixed up");

    // More than the windows of the server and the device, for a reader that pauses.
    let bytes = 24_000_000;
    let mut exec = muster(system, &["exec", "robot", "--shell", &writes(bytes)]);
    let mut stdout = exec.stdout.take().unwrap();
    let read = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_secs(8));
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).map(|_| all.len())
    });
    assert_eq!(read.await.unwrap().unwrap(), bytes);
    let done = exec.wait_with_output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");

    // A late follower gets the stored output, and delays no other follower.
    let bytes = 40_000_000;
    let exec =
        muster(system, &["exec", "robot", "--shell", &format!("{}; sleep 2", writes(bytes))]);
    let id = wait::until("the run to be under way", WAIT_TIMEOUT, || async {
        let newest = system.api.list("/api/v1/operations").await.into_iter().next()?;
        (newest["status"] == "running").then(|| newest["id"].as_str().unwrap().to_owned())
    })
    .await;
    let late = muster(system, &["operation", "output", &id]);
    let late = std::thread::spawn(|| late.wait_with_output().unwrap());
    let exec = exec.wait_with_output().unwrap();
    let late = late.join().unwrap();
    assert_eq!((exec.stdout.len(), exec.status.code()), (bytes, Some(0)), "{exec:.2000?}");
    assert!(late.stdout.len() >= STORED_BYTES, "{}", late.stdout.len());
    let message = String::from_utf8_lossy(&late.stderr);
    assert_eq!(late.stdout.len() < bytes, has_number(&message, bytes as u64), "{message}");

    let json = ["exec", "robot", "--json", "--shell", &writes(20_000_000)];
    let (code, out, _) = system.muster(&json);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["stdout_truncated"]), (0, &true.into()));
    assert_eq!(found["stderr_truncated"], false);
    assert_eq!(found["run"]["stdout"]["size_bytes"], 20_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_without_followers_is_truncated_and_reported_as_such() {
    let robot = Robot::start("").await;
    let system = &robot.system;
    let (code, id, err) =
        system.muster(&["exec", "robot", "--detach", "--shell", &writes(9_000_000)]);
    assert_eq!(code, 0, "{err}");
    let id = id.split_whitespace().next_back().unwrap();
    let path = format!("/api/v1/operations/{id}/runs/robot");
    let run = wait::until("the run to end", WAIT_TIMEOUT, || async {
        let run = system.api.send(reqwest::Method::GET, &path, None).await.1;
        (run["status"] == "succeeded").then_some(run)
    })
    .await;
    assert_eq!(
        (&run["stdout"]["size_bytes"], &run["stdout"]["stored_bytes"]),
        (&9_000_000.into(), &STORED_BYTES.into())
    );
    let (code, out, err) = system.muster(&["operation", "output", id]);
    assert_eq!((code, out.len()), (0, STORED_BYTES), "{err}");
    assert!(has_number(&err, 9_000_000) && has_number(&err, STORED_BYTES as u64), "{err}");
}
