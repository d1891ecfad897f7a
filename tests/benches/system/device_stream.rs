//! (p) Live lists of devices: the traffic of a client while 10,000 devices report, and the memory of
//! the query role after 100,000 streams were opened and cut.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use muster_backing::postgres::Tuning;
use muster_simulate::{Counters, Fleet as Devices, FleetOptions, Profile};
use muster_tests::fleet::Fleet;
use reqwest::{Client, Response};

use crate::process;
use crate::report::{Report, Row, thousands};

const DEVICES: usize = 10_000;
/// Duration of the measurement of a client.
const PERIOD: Duration = Duration::from_secs(30);
const STREAMS: usize = 100_000;
/// Number of streams that are opened concurrently.
const CONCURRENT: usize = 32;
/// Number of streams before the first measurement of memory.
const WARM_UP: usize = 5_000;

/// Runs all measurements.
pub(crate) async fn measure(report: &mut Report, say: &impl Fn(&str)) {
    let more = [("MUSTER_JOINS_PER_SECOND", "100000")];
    let fleet = Fleet::start_with(Tuning::Production, &more).await;
    let token = fleet.api.enrollment_token(u32::try_from(DEVICES).unwrap()).await;
    let options = FleetOptions {
        url: fleet.api.url.clone(),
        ca: Some(fleet.ca()),
        token,
        devices: DEVICES,
        prefix: "sim".to_owned(),
        profile: "busy".parse::<Profile>().unwrap(),
    };
    say("(p) enrolling 10 000 devices");
    let counters = Arc::new(Counters::default());
    let enrolled = Devices::enroll(&options, &counters).await.unwrap();
    let running = Devices::start(&options, enrolled, Arc::clone(&counters)).unwrap();
    while counters.snapshot().online < DEVICES as u64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let client = client(&fleet);
    for (what, query) in [
        ("by name", ""),
        ("by the time last seen", "?sort=-last_seen_at"),
        ("by name, all offline or short of memory", "?selector=offline or mem.available < 100Mi"),
    ] {
        say(&format!("(p) a client, {what}"));
        traffic(report, &fleet, &client, what, query).await;
    }
    running.finish(Duration::from_secs(30)).await;
    say("(p) 100 000 streams");
    cut(report, &fleet).await;
}

fn client(fleet: &Fleet) -> Client {
    let pem = std::fs::read(fleet.ca()).unwrap();
    let roots = reqwest::Certificate::from_pem_bundle(&pem).unwrap();
    Client::builder().tls_certs_only(roots).http1_only().build().unwrap()
}

async fn open(fleet: &Fleet, client: &Client, query: &str) -> Response {
    let url = format!("{}/api/v1/devices/stream{}", fleet.api.url, query.replace(' ', "%20"));
    let response = client.get(url).bearer_auth(&fleet.api.token).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

/// Counts the bytes of a stream after its first window.
async fn traffic(report: &mut Report, fleet: &Fleet, client: &Client, what: &str, query: &str) {
    let mut body = open(fleet, client, query).await.bytes_stream();
    let mut first = Vec::new();
    while !first.windows(13).any(|text| text == b"event: window") {
        first.extend_from_slice(&body.next().await.unwrap().unwrap());
    }
    let query_pid = fleet.query.pid();
    let cpu = process::cpu_seconds(query_pid);
    let (started_at, mut bytes, mut messages) = (Instant::now(), 0, 0);
    while let Ok(chunk) =
        tokio::time::timeout(PERIOD.saturating_sub(started_at.elapsed()), body.next()).await
    {
        let chunk = chunk.unwrap().unwrap();
        bytes += chunk.len();
        messages += chunk.windows(13).filter(|text| text == b"event: change").count();
    }
    let seconds = started_at.elapsed().as_secs_f64();
    let rate = bytes as f64 / seconds;
    let cpu = (process::cpu_seconds(query_pid) - cpu) / seconds;
    report.add(Row {
        description: format!("(p) a live list of 50 of 10 000 reporting devices, {what}"),
        value: format!("{:.1} kB/s, {:.1} messages/s", rate / 1e3, messages as f64 / seconds),
        peer: format!("query: {:.0}% of a core with the reports of all devices", 100.0 * cpu),
        ratio: None,
        target: "≤ 50 kB/s, ≤ 2/s".to_owned(),
        is_met: Some(rate <= 50e3 && messages as f64 / seconds <= 2.1),
    });
}

/// Opens streams, reads their first bytes, and cuts the connections.
async fn cut(report: &mut Report, fleet: &Fleet) {
    let run = async |count: usize| {
        let one = |number: usize| async move {
            // A client of its own, so that the connection is closed with it.
            let client = client(fleet);
            let mut response = open(fleet, &client, &format!("?limit={}", 1 + number % 50)).await;
            let _ = response.chunk().await;
        };
        futures::stream::iter((0..count).map(one)).for_each_concurrent(CONCURRENT, |one| one).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        process::resident_mb(fleet.query.pid())
    };
    let before = run(WARM_UP).await;
    let after = run(STREAMS).await;
    report.add(Row {
        description: format!(
            "(p) memory of query after {} opened and cut streams",
            thousands(STREAMS as f64)
        ),
        value: format!("{after:.0} MB"),
        peer: format!("after {}: {before:.0} MB", thousands(WARM_UP as f64)),
        ratio: None,
        target: "unchanged (10%)".to_owned(),
        is_met: Some(after <= 1.1 * before),
    });
}
