//! SIGKILL of every process in turn, under load; a lost stream; a restored backup. At the end every
//! recorded event is in the log exactly once and in order, the metrics are complete, and the read
//! models equal a rebuild row by row.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use muster_eventlog::projection::{Runner, compare_tables};
use muster_eventlog::{ConnectOptions, EventLog, LogOptions};
use muster_query::projections::devices::{self, Devices};
use muster_query::projections::operations::{self, Operations};
use muster_query::projections::projects::{self, Projects};
use muster_query::projections::sessions::{self, Sessions};
use muster_query::projections::timeline::{self, Timeline};
use muster_query::projections::tokens::{self, Tokens};
use muster_schemas::Timestamp;
use muster_schemas::metrics::{MetricBatch, Point};
use muster_tests::backup::{delete_events_stream, dump, restore, run};
use muster_tests::fleet::Fleet;
use muster_tests::{Api, SimDevice, wait};
use serde_json::Value;

const WAIT_TIMEOUT: Duration = Duration::from_secs(90);

/// A device under load: records and publishes while `go_on` is true.
pub(crate) async fn load(
    mut device: SimDevice,
    is_running: Arc<AtomicBool>,
) -> (SimDevice, Vec<i64>) {
    let mut times = Vec::new();
    while is_running.load(Ordering::Relaxed) {
        device.chain.record_many(5);
        device.publish_pending().await;
        let time = Timestamp::from(std::time::SystemTime::now());
        let point = Point::new("sim").field("n", i64::try_from(times.len()).unwrap());
        device.measure(&MetricBatch { time, points: vec![point] }).await;
        times.push(time.micros());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (device, times)
}

async fn devices(fleet: &Fleet, count: u32) -> Vec<SimDevice> {
    let token = fleet.api.enrollment_token(count).await;
    let mut devices = Vec::new();
    for n in 0..count {
        let name = format!("sim-{n}");
        devices.push(SimDevice::join(&fleet.api, &fleet.ca(), &token, &name).await);
    }
    devices
}

/// Each device records `count` events; returns when they are in the log.
async fn record(devices: &mut [SimDevice], count: u64) {
    for device in devices {
        device.chain.record_many(count);
        device.sync(WAIT_TIMEOUT).await;
    }
}

/// Asserts that the log has each device's chain exactly once and in order.
pub(crate) async fn assert_complete(api: &Api, devices: &[SimDevice]) {
    let mut logged: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for event in api.list("/api/v1/events?order=asc&type=DeviceConfigApplied").await {
        let stream = event["stream"].as_str().unwrap_or_default().to_owned();
        let versions =
            (event["version"].as_u64().unwrap(), event["data"]["version"].as_u64().unwrap());
        logged.entry(stream).or_default().push(versions);
    }
    for device in devices {
        let stream = format!("device-report/{}/{}", device.id(), device.chain.epoch);
        let expected: Vec<(u64, u64)> =
            (1..=device.chain.events.len() as u64).map(|n| (n, n)).collect();
        assert_eq!(logged.get(&stream), Some(&expected), "{stream}");
    }
}

/// Asserts that the live tables equal tables that are rebuilt from the log.
pub(crate) async fn assert_rebuild_equals_live(fleet: &Fleet) {
    assert_rebuilt(fleet.postgres.connection_url()).await;
}

/// The same for any database.
pub(crate) async fn assert_rebuilt(postgres_url: String) {
    let connect = ConnectOptions::new(postgres_url);
    let log = EventLog::open(&connect, LogOptions::default()).await.unwrap();
    let mut one = Runner::open(log.clone(), Devices::new("devices_rebuilt")).await.unwrap();
    let mut two = Runner::open(log.clone(), Tokens::new("tokens_rebuilt")).await.unwrap();
    let mut three = Runner::open(log.clone(), Timeline::new("timeline_rebuilt")).await.unwrap();
    let mut four = Runner::open(log.clone(), Projects::new("projects_rebuilt")).await.unwrap();
    let mut five = Runner::open(log.clone(), Operations::new("operations_rebuilt")).await.unwrap();
    let mut six = Runner::open(log.clone(), Sessions::new("sessions_rebuilt")).await.unwrap();
    let pairs = [
        (operations::TABLE, "operations_rebuilt"),
        ("operations_v2_runs", "operations_rebuilt_runs"),
        ("operations_v2_uploads", "operations_rebuilt_uploads"),
        (sessions::TABLE, "sessions_rebuilt"),
        ("sessions_v2_pieces", "sessions_rebuilt_pieces"),
        (projects::TABLE, "projects_rebuilt"),
        (devices::TABLE, "devices_rebuilt"),
        (tokens::TABLE, "tokens_rebuilt"),
        (timeline::TABLE, "timeline_rebuilt"),
    ];
    wait::until("live tables to equal a rebuild", WAIT_TIMEOUT, || {
        let log = log.clone();
        // Both sides may differ by a few presence events while the projections run.
        let caught_up = async {
            one.catch_up().await.unwrap();
            two.catch_up().await.unwrap();
            three.catch_up().await.unwrap();
            four.catch_up().await.unwrap();
            five.catch_up().await.unwrap();
            six.catch_up().await.unwrap();
        };
        futures::executor::block_on(caught_up);
        async move {
            let mut differences = Vec::new();
            for (live, rebuilt) in pairs {
                differences.extend(compare_tables(&log, live, rebuilt).await.unwrap());
            }
            differences.is_empty().then_some(())
        }
    })
    .await;
}

/// Asserts that every measured batch is in the metric store.
pub(crate) async fn assert_metrics_complete(api: &Api, device: &SimDevice, times: &[i64]) {
    let path = format!(
        "/api/v1/devices/{}/metrics?field=sim.n&since=1h&step=1h&fn=count&group_by=",
        device.id()
    );
    wait::until("the metrics to be complete", WAIT_TIMEOUT, || async {
        let response = api.get(&path).await;
        let count: f64 = response["series"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|series| series["points"].as_array().cloned().unwrap_or_default())
            .filter_map(|point| point["value"].as_f64())
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let expected = times.len() as f64;
        (count == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_lost_or_duplicated_when_each_process_is_killed() {
    let mut fleet = Fleet::start().await;
    let go_on = Arc::new(AtomicBool::new(true));
    let loads: Vec<_> = devices(&fleet, 4)
        .await
        .into_iter()
        .map(|device| tokio::spawn(load(device, go_on.clone())))
        .collect();
    let pause = || tokio::time::sleep(Duration::from_millis(1500));
    for _ in 0..2 {
        pause().await;
        fleet.ingest.kill9_and_restart();
        pause().await;
        fleet.command.kill9_and_restart();
        pause().await;
        fleet.query.kill9_and_restart();
        pause().await;
        fleet.nats.child().kill9().unwrap();
        pause().await;
        fleet.postgres.child().kill9().unwrap();
        pause().await;
        fleet.influx.child().kill9().unwrap();
    }
    pause().await;
    go_on.store(false, Ordering::Relaxed);
    let mut done = Vec::new();
    for load in loads {
        done.push(load.await.unwrap());
    }
    fleet.wait_until_ready().await;
    for (device, _) in &done {
        device.sync(WAIT_TIMEOUT).await;
    }
    let (devices, times): (Vec<_>, Vec<_>) = done.into_iter().unzip();
    assert_complete(&fleet.api, &devices).await;
    for (device, times) in devices.iter().zip(&times) {
        assert_metrics_complete(&fleet.api, device, times).await;
    }
    assert_rebuild_equals_live(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_lost_when_the_events_stream_is_deleted() {
    let fleet = Fleet::start().await;
    let mut devices = devices(&fleet, 2).await;
    record(&mut devices, 50).await;
    let stop_taking = fleet.postgres.child();
    stop_taking.stop().await.unwrap();
    // These are in the stream, and not in the log.
    for device in &mut devices {
        device.chain.record_many(50);
        device.publish_pending().await;
    }
    delete_events_stream(&fleet).await;
    stop_taking.restart().await.unwrap();
    record(&mut devices, 50).await;
    fleet.wait_until_ready().await;
    assert_complete(&fleet.api, &devices).await;
    assert_rebuild_equals_live(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_resend_events_missing_in_a_restored_backup() {
    let mut fleet = Fleet::start().await;
    let mut devices = devices(&fleet, 2).await;
    record(&mut devices, 30).await;
    let dump = dump(&fleet);
    record(&mut devices, 30).await;
    restore(&mut fleet, &dump).await;
    record(&mut devices, 30).await;
    assert_complete(&fleet.api, &devices).await;
    assert_rebuild_equals_live(&fleet).await;
}

/// A read model's commits do not wait for the disk: what PostgreSQL forgets of them is read again,
/// also where no event follows.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_read_model_lost_by_postgresql_are_restored() {
    let fleet = Fleet::start().await;
    let mut devices = devices(&fleet, 1).await;
    for _ in 0..3 {
        devices[0].chain.record_many(20);
        devices[0].sync(WAIT_TIMEOUT).await;
        let expected = devices[0].chain.events.len();
        wait::until("the events to be shown", WAIT_TIMEOUT, || async {
            let path = "/api/v1/events?order=asc&type=DeviceConfigApplied";
            (fleet.api.list(path).await.len() == expected).then_some(())
        })
        .await;
        fleet.postgres.child().kill9().unwrap();
        fleet.wait_until_ready().await;
        assert_rebuild_equals_live(&fleet).await;
        assert_complete(&fleet.api, &devices).await;
    }
}

/// The database is replaced by an older one while all roles run: positions go back.
#[tokio::test(flavor = "multi_thread")]
async fn running_roles_continue_on_a_restored_older_database() {
    let fleet = Fleet::start().await;
    let mut devices = devices(&fleet, 2).await;
    record(&mut devices, 30).await;
    let dump = dump(&fleet);
    record(&mut devices, 300).await;
    let psql = fleet.postgres.bin().join("psql");
    let server = fleet.postgres.connection_url_of("postgres");
    run(&psql, &["-q", "-c", "CREATE DATABASE older", &server]);
    let older = fleet.postgres.connection_url_of("older");
    run(&psql, &["-q", "-v", "ON_ERROR_STOP=1", "-f", dump.to_str().unwrap(), &older]);
    // A database with connections cannot be renamed; disconnected clients may reconnect in between.
    let exchange = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'muster'; \
                    ALTER DATABASE muster RENAME TO newer; ALTER DATABASE older RENAME TO muster";
    wait::until("the databases to be exchanged", WAIT_TIMEOUT, || async {
        let exchanged = std::process::Command::new(&psql)
            .args(["-q", "-1", "-v", "ON_ERROR_STOP=1", "-c", exchange, &server])
            .output()
            .unwrap();
        exchanged.status.success().then_some(())
    })
    .await;
    fleet.wait_until_ready().await;
    record(&mut devices, 30).await;
    assert_rebuild_equals_live(&fleet).await;
    assert_complete(&fleet.api, &devices).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_metrics_are_stored_after_an_outage_of_the_metric_store() {
    let fleet = Fleet::start().await;
    let device = devices(&fleet, 1).await.remove(0);
    fleet.influx.child().stop().await.unwrap();
    let go_on = Arc::new(AtomicBool::new(true));
    let load = tokio::spawn(load(device, go_on.clone()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Query responds to a request for metrics meanwhile with an error, and keeps running.
    let (status, problem) = fleet
        .api
        .send(reqwest::Method::GET, "/api/v1/devices/sim-0/metrics?field=sim.n", None)
        .await;
    assert_eq!(status, 503, "{problem}");
    fleet.influx.child().restart().await.unwrap();
    go_on.store(false, Ordering::Relaxed);
    let (device, times) = load.await.unwrap();
    assert_metrics_complete(&fleet.api, &device, &times).await;
    let dead_letters: Vec<Value> = fleet.api.list("/api/v1/dead-letters").await;
    assert!(dead_letters.is_empty(), "{dead_letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_of_each_role_do_not_duplicate_work() {
    let fleet = Fleet::start().await;
    let mut second = fleet.start_another("ingest");
    let go_on = Arc::new(AtomicBool::new(true));
    let loads: Vec<_> = devices(&fleet, 4)
        .await
        .into_iter()
        .map(|device| tokio::spawn(load(device, go_on.clone())))
        .collect();
    tokio::time::sleep(Duration::from_secs(4)).await;
    second.kill9_and_restart();
    tokio::time::sleep(Duration::from_secs(4)).await;
    go_on.store(false, Ordering::Relaxed);
    let mut devices = Vec::new();
    for load in loads {
        devices.push(load.await.unwrap().0);
    }
    for device in &devices {
        device.sync(WAIT_TIMEOUT).await;
    }
    assert_complete(&fleet.api, &devices).await;
    assert_rebuild_equals_live(&fleet).await;
}
