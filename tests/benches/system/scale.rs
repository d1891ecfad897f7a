//! (g) to (i) Ten thousand devices with a TLS connection each: the servers' resources, all devices
//! reconnecting simultaneously, and events and metrics of all devices together.
//!
//! The devices run in this process, on the same cores as the servers: their CPU time is reported
//! separately.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use muster_backing::postgres::Tuning;
use muster_schemas::subjects::{EVENTS_STREAM, METRICS_STREAM};
use muster_simulate::{Counters, Enrolled, Fleet as Devices, FleetOptions, Profile};
use muster_tests::fleet::Fleet;
use serde_json::json;

use crate::process;
use crate::report::{Report, Row, thousands};

/// Numbers of connected devices, ascending.
const SIZES: [usize; 2] = [1_000, 10_000];
/// Duration of the measurement of idle devices.
const IDLE: Duration = Duration::from_secs(30);
/// Duration of the measurement of reporting devices.
const BUSY: Duration = Duration::from_secs(60);
/// Timeout of every wait.
const WAIT_TIMEOUT: Duration = Duration::from_secs(300);

fn options(fleet: &Fleet, token: &str, profile: &str) -> FleetOptions {
    FleetOptions {
        url: fleet.api.url.clone(),
        ca: Some(fleet.ca()),
        token: token.to_owned(),
        devices: SIZES[1],
        prefix: "sim".to_owned(),
        profile: profile.parse::<Profile>().unwrap(),
    }
}

/// Runs all measurements.
pub(crate) async fn measure(report: &mut Report, say: &impl Fn(&str)) {
    // All devices enroll from one address.
    let more = [("MUSTER_JOINS_PER_SECOND", "100000")];
    let fleet = Fleet::start_with(Tuning::Production, &more).await;
    let token = fleet.api.enrollment_token(u32::try_from(SIZES[1]).unwrap()).await;
    let idle = options(&fleet, &token, "idle");
    let counters = Arc::new(Counters::default());
    say("(g) enrolling 10 000 devices");
    let started_at = Instant::now();
    let enrolled = Devices::enroll(&idle, &counters).await.unwrap();
    joined(report, started_at.elapsed());

    let mut consumers = Vec::new();
    for size in SIZES {
        say(&format!("(g) {size} silent devices"));
        let devices = enrolled[..size].to_vec();
        let (running, counters) = connected(&idle, devices).await;
        consumers.push(measure_idle(report, &fleet, size).await);
        if size == SIZES[1] {
            say("(h) a storm");
            storm(report, &fleet, &running, &counters).await;
        }
        running.finish(Duration::from_secs(30)).await;
    }
    report.add(Row {
        description: "(g) JetStream consumers, 10 000 devices beside 1 000".to_owned(),
        value: consumers[1].to_string(),
        peer: consumers[0].to_string(),
        ratio: None,
        target: "the same".to_owned(),
        is_met: Some(consumers[0] == consumers[1]),
    });
    say("(i) 10 000 busy devices");
    measure_busy(report, &fleet, &options(&fleet, &token, "busy"), enrolled, say).await;
}

fn joined(report: &mut Report, took: Duration) {
    let rate = SIZES[1] as f64 / took.as_secs_f64();
    report.add(Row {
        description: "(g) devices joining, one address".to_owned(),
        value: format!("{}/s", thousands(rate)),
        peer: String::new(),
        ratio: None,
        target: String::new(),
        is_met: None,
    });
}

/// Starts devices, and waits until all are online.
async fn connected(options: &FleetOptions, devices: Vec<Enrolled>) -> (Devices, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    let count = devices.len() as u64;
    let running = Devices::start(options, devices, Arc::clone(&counters)).unwrap();
    all_online(&counters, count).await;
    (running, counters)
}

async fn all_online(counters: &Counters, count: u64) {
    let started_at = Instant::now();
    while counters.snapshot().online < count {
        let snapshot = counters.snapshot();
        assert!(
            started_at.elapsed() < WAIT_TIMEOUT,
            "{} of {count}: {:?}",
            snapshot.online,
            snapshot.errors
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The servers' processes by name.
fn servers(fleet: &Fleet) -> Vec<(&'static str, Vec<u32>)> {
    let child = |pid: Option<u32>| pid.into_iter().collect::<Vec<_>>();
    let postgres = fleet.postgres.child().pid();
    let mut postgres_all = child(postgres);
    postgres_all.extend(postgres.map(process::children).unwrap_or_default());
    vec![
        ("nats-server", child(fleet.nats.child().pid())),
        ("ingest", vec![fleet.ingest.pid()]),
        ("command", vec![fleet.command.pid()]),
        ("query", vec![fleet.query.pid()]),
        ("PostgreSQL", postgres_all),
        ("InfluxDB", child(fleet.influx.child().pid())),
    ]
}

/// Measures memory and CPU of each server with idle devices; returns the number of consumers.
async fn measure_idle(report: &mut Report, fleet: &Fleet, size: usize) -> usize {
    // Presence events and welcomes have been processed by then.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let servers = servers(fleet);
    let cpu = || -> Vec<f64> {
        servers
            .iter()
            .map(|(_, pids)| pids.iter().map(|pid| process::cpu_seconds(*pid)).sum())
            .collect()
    };
    let (before, started_at) = (cpu(), Instant::now());
    tokio::time::sleep(IDLE).await;
    let (after, seconds) = (cpu(), started_at.elapsed().as_secs_f64());
    let mut parts = Vec::new();
    let mut total = 0.0;
    for ((name, pids), (before, after)) in servers.iter().zip(before.iter().zip(after)) {
        let memory: f64 = pids.iter().map(|pid| process::proportional_mb(*pid)).sum();
        total += memory;
        parts.push(format!("{name} {memory:.0} MB, {:.1} %", 100.0 * (after - before) / seconds));
    }
    report.add(Row {
        description: format!("(g) servers, {} silent devices", thousands(size as f64)),
        value: format!("{total:.0} MB; CPU of a core: {}", parts.join("; ")),
        peer: String::new(),
        ratio: None,
        target: String::new(),
        is_met: None,
    });
    let jetstream = jetstream::new(fleet.broker().await);
    let mut consumers = 0;
    for stream in [EVENTS_STREAM, METRICS_STREAM] {
        let mut stream = jetstream.get_stream(stream).await.unwrap();
        consumers += stream.info().await.unwrap().state.consumer_count;
    }
    consumers
}

async fn storm(report: &mut Report, fleet: &Fleet, running: &Devices, counters: &Counters) {
    let before = counters.snapshot().connects;
    let started_at = Instant::now();
    running.storm();
    let count = SIZES[1] as u64;
    while counters.snapshot().connects < before + count {
        assert!(started_at.elapsed() < WAIT_TIMEOUT, "the storm does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    all_online(counters, count).await;
    let devices = started_at.elapsed();
    // The time until an operator sees all devices online.
    loop {
        let summary = fleet.api.get("/api/v1/fleet/summary").await;
        if summary["status"]["online"].as_u64() == Some(count) {
            break;
        }
        assert!(started_at.elapsed() < WAIT_TIMEOUT, "{summary}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    report.add(Row {
        description: "(h) 10 000 devices reconnect at once".to_owned(),
        value: format!(
            "all welcomed again after {:.1} s, all shown online after {:.1} s",
            devices.as_secs_f64(),
            started_at.elapsed().as_secs_f64()
        ),
        peer: String::new(),
        ratio: None,
        target: String::new(),
        is_met: None,
    });
}

/// Runs one operation on all devices; each immediately reports success.
async fn command(report: &mut Report, fleet: &Fleet) {
    let count = SIZES[1] as u64;
    let memory = || -> f64 {
        servers(fleet).iter().flat_map(|(_, pids)| pids.clone()).map(process::proportional_mb).sum()
    };
    let before = memory();
    let started_at = Instant::now();
    let body = json!({"target": {"kind": "selector", "selector": "!none"}, "max_concurrent_devices": 1000,
        "action": {"kind": "exec", "argv": ["true"]}});
    let operation = fleet.api.post("/api/v1/operations", &body).await;
    let accepted = started_at.elapsed().as_secs_f64();
    assert_eq!(operation["device_count"].as_u64(), Some(count), "{operation}");
    let path = format!("/api/v1/operations/{}", operation["id"].as_str().unwrap());
    let (mut most, mut half) = (before, None);
    loop {
        let (status, found) = fleet.api.send(reqwest::Method::GET, &path, None).await;
        let finished = found["finished_count"].as_u64().unwrap_or(0);
        if finished >= count / 2 {
            half.get_or_insert(started_at.elapsed().as_secs_f64());
        }
        most = most.max(memory());
        if status == 200 && found["status"] == "finished" {
            assert_eq!(found["run_counts"]["succeeded"].as_u64(), Some(count), "{found}");
            break;
        }
        assert!(started_at.elapsed() < WAIT_TIMEOUT, "{found}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let took = started_at.elapsed().as_secs_f64();
    report.add(Row {
        description: "(n) exec on those devices".to_owned(),
        value: format!(
            "asked for in {accepted:.1} s, half of it done after {:.1} s, all after {took:.1} s: {}/s",
            half.unwrap_or(took),
            thousands(count as f64 / took)
        ),
        peer: format!("servers {before:.0} MB before, {most:.0} MB at most"),
        ratio: None,
        target: "each succeeded".to_owned(),
        is_met: Some(true),
    });
}

async fn measure_busy(
    report: &mut Report,
    fleet: &Fleet,
    options: &FleetOptions,
    enrolled: Vec<Enrolled>,
    say: &impl Fn(&str),
) {
    let (running, counters) = connected(options, enrolled).await;
    let (before, started_at) = (counters.snapshot(), Instant::now());
    tokio::time::sleep(BUSY).await;
    let (after, seconds) = (counters.snapshot(), started_at.elapsed().as_secs_f64());
    let memory: f64 = servers(fleet)
        .iter()
        .flat_map(|(_, pids)| pids.clone())
        .map(process::proportional_mb)
        .sum();
    say("(n) a command on all of them");
    command(report, fleet).await;
    running.finish(Duration::from_secs(120)).await;
    let end = counters.snapshot();
    let rate = |after: u64, before: u64| thousands((after - before) as f64 / seconds);
    report.add(Row {
        description: "(i) 10 000 devices, an event and a batch each every 10 s".to_owned(),
        value: format!(
            "{} events/s in the log and {} points/s at the broker together; servers {memory:.0} MB",
            rate(after.committed, before.committed),
            rate(after.points, before.points)
        ),
        peer: format!("{} events/s recorded", rate(after.events, before.events)),
        ratio: None,
        target: "nothing lost".to_owned(),
        is_met: Some(end.committed == end.events && end.differing == 0),
    });
}
