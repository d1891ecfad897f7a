//! Shells and files over a bad network: delayed, with losses, and with cut connections.
//!
//! The tests' kernel has no netem, so a proxy simulates it: it delays, pauses as TCP does when
//! packets are lost, and cuts.

use std::process::Command;
use std::time::{Duration, Instant};

use muster_backing::ports::free_port;
use muster_backing::postgres::Tuning;
use muster_tests::agent::AgentProcess;
use muster_tests::binaries::binary;
use muster_tests::fleet::Fleet;
use muster_tests::network::{NetworkConditions, Port};
use muster_tests::socket::Socket;
use muster_tests::wait;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const STORM: NetworkConditions = NetworkConditions {
    delay: Duration::from_millis(60),
    loss_interval: 25,
    pause: Duration::from_millis(250),
};
const SHELL: &str = "/api/v1/devices/robot/shell?cols=100&rows=30";

/// Starts servers, and a device with a bad network to their broker.
async fn start_on_bad_network(port: u16, dir: &std::path::Path) -> (Fleet, Port, AgentProcess) {
    let broker = format!("tls://127.0.0.1:{port}");
    let fleet = Fleet::start_with(Tuning::Small, &[("MUSTER_DEVICE_NATS_URL", &broker)]).await;
    let way = Port::open_in(port, fleet.nats.port(), STORM).await;
    let token = fleet.api.enrollment_token(1).await;
    let mut agent = AgentProcess::enroll(dir, &fleet.api.url, &token, "robot");
    agent.start();
    wait::until("the agent to be online, by this way", WAIT_TIMEOUT, || async {
        let is_online = fleet.api.get("/api/v1/devices/robot").await["status"] == "online";
        let status = agent.status();
        let is_here = status["broker"].as_str().is_some_and(|way| !way.contains("https://"));
        (is_online && is_here).then_some(())
    })
    .await;
    (fleet, way, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_survives_delay_loss_and_disconnects() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port().unwrap();
    let (fleet, mut way, _agent) = start_on_bad_network(port, dir.path()).await;
    let mut shell = Socket::open(&fleet.api, &fleet.ca(), SHELL, &[]).await.unwrap();
    shell.send("stty -echo\r").await;
    shell.send("for i in $(seq 1 60); do echo number $i.; sleep 0.25; done; echo do''ne\r").await;
    shell.wait_for_output("number 5.").await;
    // The connection is cut during the output, and keys are typed while it is down.
    for word in ["first", "second"] {
        drop(way);
        tokio::time::sleep(Duration::from_millis(500)).await;
        way = Port::open_in(port, fleet.nats.port(), STORM).await;
        shell.send(&format!("echo {word} wo''rd\r")).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    shell.wait_for_output("second word").await;
    // One websocket, one channel; and no output is missing, duplicated or out of order.
    let shown = String::from_utf8_lossy(&shell.output).into_owned();
    let mut rest = shown.as_str();
    for number in 1..=60 {
        let text = format!("number {number}.");
        let at = rest.find(&text).unwrap_or_else(|| panic!("{text} is missing in {shown}"));
        rest = &rest[at + text.len()..];
        assert_eq!(shown.matches(&text).count(), 1, "{text} in {shown}");
    }
    let attached = shell.messages.iter().filter(|message| message["kind"] == "attached").count();
    assert_eq!(attached, 1, "{:?}", shell.messages);
    // Ctrl-C takes effect before all output in flight.
    shell.send("yes\r").await;
    shell.wait_for_output("y\r\ny\r\n").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let started_at = Instant::now();
    shell.send("\x03").await;
    shell.send("echo qu''iet\r").await;
    shell.wait_for_output("quiet").await;
    assert!(started_at.elapsed() < Duration::from_secs(20), "{:?}", started_at.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_copy_survives_delay_loss_and_disconnects() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port().unwrap();
    let (fleet, mut way, _agent) = start_on_bad_network(port, dir.path()).await;
    let content: Vec<u8> =
        (0..6_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::write(&from, &content).unwrap();
    let child = Command::new(binary("muster"))
        .args(["cp", from.to_str().unwrap(), &format!("robot:{}", to.display())])
        .env("MUSTER_URL", &fleet.api.url)
        .env("MUSTER_TOKEN", &fleet.api.token)
        .env("MUSTER_CA", fleet.ca())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(way);
        way = Port::open_in(port, fleet.nats.port(), STORM).await;
    }
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert!(std::fs::read(&to).unwrap() == content, "equal bytes");
    drop(way);
}
