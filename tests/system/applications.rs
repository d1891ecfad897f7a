//! Metrics of applications on a device can be queried, and no application can do damage.

use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};

use muster_tests::agent::AgentProcess;
use muster_tests::text::has_number;
use muster_tests::{System, wait};
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time until a config takes effect on its devices.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(2);

fn free_udp_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// Sets variables, and waits until the agent applies them.
async fn set(system: &System, name: &str, vars: Value) {
    let path = format!("/api/v1/devices/{name}");
    system.api.patch(&format!("{path}/config"), &json!({"vars": vars})).await;
    wait::until("the config to be applied", WAIT_TIMEOUT, || async {
        let config = system.api.get(&path).await["config"].clone();
        (config["applied_version"] == config["version"]).then_some(())
    })
    .await;
}

/// Starts an agent with separate ports for applications: other agents run on this machine.
async fn start(system: &System, dir: &tempfile::TempDir, name: &str) -> (AgentProcess, u16, u16) {
    let token = system.api.enrollment_token(1).await;
    let mut agent = AgentProcess::enroll(dir.path(), &system.api.url, &token, name);
    agent.start();
    let (lines, json) = (free_udp_port(), free_udp_port());
    set(system, name, json!({"metrics.udp": lines, "metrics.json": json})).await;
    (agent, lines, json)
}

/// The newest value of each series of a field in the metric store.
async fn stored(system: &System, name: &str, field: &str) -> Vec<(Value, f64)> {
    let path = format!("/api/v1/devices/{name}/metrics?field={field}&since=1h&step=1h&fn=max");
    let Some((200, response)) = system.api.try_send(reqwest::Method::GET, &path, None).await else {
        return Vec::new();
    };
    let series = response["series"].as_array().cloned().unwrap_or_default();
    let newest = |series: Value| {
        let values =
            series["points"].as_array()?.iter().filter_map(|point| point["value"].as_f64());
        Some((series["tags"].clone(), values.fold(f64::MIN, f64::max)))
    };
    series.into_iter().filter_map(newest).collect()
}

async fn wait_for_value(system: &System, field: &str, tags: Value, value: f64) {
    wait::until(&format!("{field} in the metric store"), WAIT_TIMEOUT, || async {
        stored(system, "robot", field).await.contains(&(tags.clone(), value)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn applications_metrics_are_stored_under_their_device() {
    let system = System::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (agent, lines, json) = start(&system, &dir, "robot").await;
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    // A device cannot write as another one.
    let line = b"queue,name=udp,device_id=other,project=other length=3i\n";
    udp.send_to(line, ("127.0.0.1", lines)).unwrap();
    let point = br#"{"measurement":"queue","tags":{"name":"json"},"fields":{"size":4}}"#;
    udp.send_to(point, ("127.0.0.1", json)).unwrap();
    let mut stream = UnixStream::connect(agent.data.join("metrics.sock")).unwrap();
    stream.write_all(b"queue,name=stream length=5i\n").unwrap();
    let datagram = UnixDatagram::unbound().unwrap();
    let to = agent.data.join("metrics-datagram.sock");
    datagram.send_to(b"queue,name=datagram length=6i", to).unwrap();

    // The 33rd stream is refused with a message.
    let path = agent.data.join("sockets/metrics.sock");
    let mut streams: Vec<_> = (0..32).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut message = String::new();
    let mut last = streams.pop().unwrap();
    last.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    std::io::Read::read_to_string(&mut last, &mut message).unwrap();
    drop(streams);
    assert!(has_number(&message, 32) && message.ends_with('\n'), "{message}");
    assert_eq!(agent.status()["local"]["dropped"]["streams"], 1);

    wait_for_value(&system, "queue.length", json!({"name": "udp"}), 3.0).await;
    wait_for_value(&system, "queue.size", json!({"name": "json"}), 4.0).await;
    wait_for_value(&system, "queue.length", json!({"name": "stream"}), 5.0).await;
    wait_for_value(&system, "queue.length", json!({"name": "datagram"}), 6.0).await;

    // Invalid input is counted, in the status and as a metric.
    for garbage in [&b"\xff\x00\xfe"[..], b"no line protocol", b"a,b=c d=", &[b'x'; 20_000]] {
        udp.send_to(garbage, ("127.0.0.1", lines)).unwrap();
        udp.send_to(garbage, ("127.0.0.1", json)).unwrap();
    }
    let local = wait::until("the garbage to be counted", WAIT_TIMEOUT, || async {
        let local = agent.status()["local"].clone();
        let count = |cause: &str| local["dropped"][cause].as_u64().unwrap_or(0);
        (count("malformed") + count("too_long") >= 8).then_some(local)
    })
    .await;
    assert_eq!((&local["points"], &local["tags_left_out"]), (&json!(4), &json!(2)), "{local}");
    wait::until("the count in the metric store", WAIT_TIMEOUT, || async {
        let dropped = stored(&system, "robot", "muster_agent_local.dropped_malformed").await;
        dropped.iter().any(|(_, count)| *count >= 6.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_series_of_a_device_are_limited_and_dropped_ones_counted() {
    let system = System::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (agent, _, _) = start(&system, &dir, "robot").await;
    // A high rate limit, so that the series are limited and not the points.
    set(&system, "robot", json!({"metrics.series": 200, "metrics.rate": 10_000})).await;
    let path = agent.data.join("metrics.sock");
    let started_at = Instant::now();
    let writing = std::thread::spawn(move || {
        let mut stream = std::io::BufWriter::new(UnixStream::connect(path).unwrap());
        for n in 0..1_000_000 {
            writeln!(stream, "flood,n={n} v={n}i").unwrap();
        }
    });
    let local = wait::until("a million points to be judged", Duration::from_secs(120), || async {
        let local = agent.status()["local"].clone();
        let dropped = local["dropped"].as_object()?.values().filter_map(Value::as_u64).sum::<u64>();
        (dropped + local["points"].as_u64()? >= 1_000_000).then_some(local)
    })
    .await;
    writing.join().unwrap();
    eprintln!("a million points judged in {:?}: {local}", started_at.elapsed());
    assert_eq!(local["series"], 200, "{local}");
    assert!(local["dropped"]["series"].as_u64() >= Some(50_000), "{local}");
    wait::until("the count in the metric store", WAIT_TIMEOUT, || async {
        let dropped = stored(&system, "robot", "muster_agent_local.dropped_series").await;
        dropped.iter().any(|(_, count)| *count >= 50_000.0).then_some(())
    })
    .await;
    let series = stored(&system, "robot", "flood.v").await;
    assert!((1..=200).contains(&series.len()), "{} series are stored", series.len());
    // The agent's own metrics continue.
    assert!(!stored(&system, "robot", "mem.used_percent").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interval_set_by_label_takes_effect_quickly_and_persists() {
    let mut system = System::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (mut agent, ..) = start(&system, &dir, "one").await;
    let labels = json!({"labels": {"site": "a"}});
    system.api.patch("/api/v1/devices/one", &labels).await;
    // A device that enrolls later, and one that the selector does not match.
    for (name, site) in [("two", "a"), ("other", "b")] {
        let body = json!({"name": name, "labels": {"site": site}});
        system.api.post("/api/v1/devices", &body).await;
    }
    let config = |system: &System, name: &'static str| {
        let api = system.api.clone();
        async move { api.get(&format!("/api/v1/devices/{name}")).await["config"].clone() }
    };
    let is_at_work = |config: &Value| {
        config["applied_version"] == config["version"]
            && config["vars"]["metrics.interval.cpu"] == "1s"
            && config["errors"] == json!({})
    };
    wait::until("the labels to be shown", WAIT_TIMEOUT, || async {
        let found = system.api.list("/api/v1/devices?selector=site%3Da").await;
        (found.len() == 2).then_some(())
    })
    .await;
    let (code, out, err) =
        system.muster(&["device", "config", "site=a", "metrics.interval.cpu=1s"]);
    assert_eq!(code, 0, "{out}{err}");
    wait::until("it to work by that", CONFIG_TIMEOUT, || async {
        is_at_work(&config(&system, "one").await).then_some(())
    })
    .await;
    assert_eq!(config(&system, "two").await["vars"]["metrics.interval.cpu"], "1s");
    assert_eq!(config(&system, "other").await["vars"], json!({}));

    // A device that enrolls later gets the config from its token.
    let (code, token, problem) = system.muster(&[
        "token",
        "create",
        "--token-only",
        "--label",
        "site=a",
        "--config",
        "metrics.interval.cpu=1s",
    ]);
    assert_eq!(code, 0, "{problem}");
    muster_tests::sim::enroll(&system.api, token.trim(), "later").await;
    wait::until("the new device to be shown", WAIT_TIMEOUT, || async {
        let later =
            system.api.try_send(reqwest::Method::GET, "/api/v1/devices/later", None).await?.1;
        let vars = &later["config"]["vars"];
        (vars["metrics.interval.cpu"] == "1s" && later["labels"]["site"] == "a").then_some(())
    })
    .await;

    // The agent restarts, and the servers.
    agent.kill9();
    agent.start();
    assert!(system.stop().await, "{}", system.output());
    system.restart().await;
    assert!(is_at_work(&config(&system, "one").await));
    let path = "/api/v1/devices/one/metrics?field=cpu.usage_idle&tag.cpu=cpu-total&since=10s&step=1s&fn=count";
    wait::until("a figure each second", WAIT_TIMEOUT, || async {
        let response = system.api.get(path).await;
        let points = response["series"][0]["points"].as_array().cloned().unwrap_or_default();
        let seconds = points.iter().filter(|point| point["value"].as_f64() >= Some(1.0)).count();
        (seconds >= 7).then_some(())
    })
    .await;
}
