//! Devices whose network permits only the HTTPS port, or only a proxy.

use std::time::Duration;

use muster_backing::ports::free_port;
use muster_backing::postgres::Tuning;
use muster_tests::agent::AgentProcess;
use muster_tests::fleet::Fleet;
use muster_tests::network::{Port, Proxy};
use muster_tests::wait;
use serde_json::json;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

fn port_of(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().parse().unwrap()
}

async fn applied(fleet: &Fleet, n: u64) {
    let vars = json!({"vars": {"n": n}});
    fleet.api.patch("/api/v1/devices/robot/config", &vars).await;
    wait::until("a config to be applied", WAIT_TIMEOUT, || async {
        let device = fleet.api.get("/api/v1/devices/robot").await;
        (device["config"]["applied_version"] == device["config"]["version"]
            && device["status"] == "online")
            .then_some(())
    })
    .await;
}

async fn connected(agent: &AgentProcess, is_expected: impl Fn(&str) -> bool) {
    wait::until("the agent to be connected this way", WAIT_TIMEOUT, || async {
        let status = agent.status();
        status["broker"].as_str().filter(|broker| is_expected(broker)).map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_https_port_suffices_and_the_broker_s_port_is_used_once_it_opens() {
    let port = free_port().unwrap();
    let broker = format!("tls://127.0.0.1:{port}");
    let fleet = Fleet::start_with(Tuning::Small, &[("MUSTER_DEVICE_NATS_URL", &broker)]).await;
    let dir = tempfile::tempdir().unwrap();
    let token = fleet.api.enrollment_token(1).await;
    let mut agent = AgentProcess::enroll(dir.path(), &fleet.api.url, &token, "robot");
    agent.start();
    connected(&agent, |broker| broker.contains("https://")).await;
    applied(&fleet, 1).await;
    let (is_well, report) = agent.doctor();
    assert!(is_well, "{report}");

    // A request without a websocket upgrade is refused, and does not reach the broker.
    let (status, _) = fleet.api.send(reqwest::Method::GET, "/nats", None).await;
    assert_eq!(status, 426);

    // The broker's port becomes reachable: the next connection uses it.
    let open = Port::open(port, fleet.nats.port()).await;
    applied(&fleet, 2).await;
    fleet.nats.child().stop().await.unwrap();
    fleet.nats.child().restart().await.unwrap();
    connected(&agent, |broker| !broker.contains("https://")).await;
    applied(&fleet, 3).await;
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn https_and_broker_connections_go_through_a_proxy() {
    let fleet = Fleet::start().await;
    let (https_port, broker) = (port_of(&fleet.api.url), fleet.nats.port());
    let proxy = Proxy::start().await;
    // The proxy refuses the broker's port.
    proxy.refuse(Some(broker));
    let dir = tempfile::tempdir().unwrap();
    let token = fleet.api.enrollment_token(1).await;
    let env = [("HTTPS_PROXY", proxy.url()), ("NO_PROXY", String::new())];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut agent = AgentProcess::enroll_with(dir.path(), &fleet.api.url, &token, "robot", &env);
    assert_eq!(proxy.connected_ports(), [https_port], "it enrolled through the proxy");
    agent.start();
    connected(&agent, |broker| broker.contains("https://")).await;
    applied(&fleet, 1).await;
    assert!(
        proxy.connected_ports().iter().all(|port| *port == https_port),
        "{:?}",
        proxy.connected_ports()
    );

    proxy.refuse(None);
    agent.kill9();
    agent.start();
    let url = proxy.url();
    let address = url.rsplit('@').next().unwrap();
    connected(&agent, |broker| broker.contains(address)).await;
    applied(&fleet, 2).await;
    assert!(proxy.connected_ports().contains(&broker), "{:?}", proxy.connected_ports());
    let shown = agent.status().to_string();
    assert!(!shown.contains("u:p"), "the proxy's password is nobody's business: {shown}");

    // A proxy that refuses every connection is reported.
    proxy.refuse(Some(https_port));
    let (is_well, report) = agent.doctor();
    assert!(!is_well && report.contains(address), "{report}");
    assert!(proxy.connection_count() > 3);
}
