//! (o) The API through its TLS listener: reads and writes of 1,000 devices, compared with static
//! files of the same listener.
//!
//! The clients run in this process, on the same cores as the servers, in both measurements. No
//! static file has exactly the size of a response, so the rate of one of that size is interpolated
//! between a small and a large file.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use muster_simulate::{Counters, Fleet as Devices, FleetOptions, Profile};
use muster_tests::System;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::pairs::{PAIRS, Pairs, median, percentile};
use crate::report::{Report, Row, thousands};

const DEVICES: usize = 1_000;
const CONNECTIONS: usize = 16;
/// Duration of each measurement of a pair.
const PERIOD: Duration = Duration::from_secs(4);
/// Duration of the measurement of writes.
const WRITES: Duration = Duration::from_secs(10);
/// Number of writes that are each followed by a read of another client.
const READS_AFTER_WRITES: usize = 10_000;
/// Files of the listener's documentation.
const SMALL_FILE: &str = "/docs/reference/oauth2-redirect.js";
const LARGE_FILE: &str = "/docs/reference/swagger-ui.css";

/// Runs all measurements.
pub(crate) async fn measure(report: &mut Report, say: &impl Fn(&str)) {
    let flags = ["--no-agent", "--joins-per-second", "100000"];
    let system = System::start_with(&flags).await;
    say("(o) enrolling devices");
    let ids = Arc::new(enroll(&system).await);
    let load = Load::new(&system);
    let path = |n: usize| format!("/api/v1/devices/{}", ids[n % DEVICES]);
    say("(o) a device");
    reads(report, &load, "GET a device by id", path, 0.25).await;
    let name = |n: usize| format!("/api/v1/devices/sim-{}", n % DEVICES);
    reads(report, &load, "GET a device by name", name, 0.25).await;
    say("(o) a page of devices");
    let page = |_: usize| "/api/v1/devices?limit=100".to_owned();
    reads(report, &load, "GET a page of 100 devices", page, 0.30).await;
    say("(o) changes of labels");
    writes(report, &load, path).await;
    say("(o) reads after writes");
    reads_after_writes(report, &load, path).await;
}

/// Enrolls devices, which connect, report their inventory and disconnect; returns their ids.
async fn enroll(system: &System) -> Vec<String> {
    let token = system.api.enrollment_token(u32::try_from(DEVICES).unwrap()).await;
    let options = FleetOptions {
        url: system.api.url.clone(),
        ca: Some(system.ca()),
        token,
        devices: DEVICES,
        prefix: "sim".to_owned(),
        profile: "idle".parse::<Profile>().unwrap(),
    };
    let counters = Arc::new(Counters::default());
    let enrolled = Devices::enroll(&options, &counters).await.unwrap();
    let running = Devices::start(&options, enrolled, Arc::clone(&counters)).unwrap();
    while counters.snapshot().online < DEVICES as u64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.finish(Duration::from_secs(30)).await;
    loop {
        let devices = system.api.list("/api/v1/devices?status=offline").await;
        if devices.len() == DEVICES {
            return devices.iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Clients with a connection each.
struct Load {
    clients: Vec<Client>,
    url: String,
    token: String,
}

/// The requests of a measurement.
struct Sent {
    /// Requests in a second.
    rate: f64,
    /// Bytes of the body of the last response.
    bytes: usize,
    /// Duration of each request, in milliseconds.
    latencies: Vec<f64>,
}

impl Load {
    fn new(system: &System) -> Self {
        let pem = std::fs::read(system.ca()).unwrap();
        let client = || {
            Client::builder()
                .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).unwrap())
                .http1_only()
                .build()
                .unwrap()
        };
        Self {
            clients: (0..CONNECTIONS).map(|_| client()).collect(),
            url: system.api.url.clone(),
            token: system.api.token.clone(),
        }
    }

    /// Sends requests on all connections until the duration is over. `request` returns method, path
    /// and body of the request with a number.
    async fn send(
        &self,
        duration: Duration,
        request: impl Fn(usize) -> (Method, String, Option<Value>) + Send + Sync,
    ) -> Sent {
        let (next, request) = (AtomicUsize::new(0), &request);
        let started_at = Instant::now();
        let connections = self.clients.iter().map(|client| {
            let next = &next;
            async move {
                let (mut latencies, mut bytes) = (Vec::new(), 0);
                while started_at.elapsed() < duration {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let sent_at = Instant::now();
                    bytes = self.one(client, request(number)).await.len();
                    latencies.push(1000.0 * sent_at.elapsed().as_secs_f64());
                }
                (latencies, bytes)
            }
        });
        let done = futures::future::join_all(connections).await;
        let seconds = started_at.elapsed().as_secs_f64();
        let bytes = done.last().map_or(0, |(_, bytes)| *bytes);
        let latencies: Vec<f64> = done.into_iter().flat_map(|(latencies, _)| latencies).collect();
        Sent { rate: latencies.len() as f64 / seconds, bytes, latencies }
    }

    /// Sends a request; returns the body.
    async fn one(
        &self,
        client: &Client,
        (method, path, body): (Method, String, Option<Value>),
    ) -> bytes::Bytes {
        let request = client.request(method, format!("{}{path}", self.url));
        let request = request.bearer_auth(&self.token);
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.bytes().await.unwrap()
    }

    async fn get(&self, path: impl Fn(usize) -> String + Send + Sync) -> Sent {
        self.send(PERIOD, |number| (Method::GET, path(number), None)).await
    }

    /// Rate of a static file with this number of bytes: time grows linearly with size.
    async fn static_rate(&self, bytes: usize) -> f64 {
        let small = self.get(|_| SMALL_FILE.to_owned()).await;
        let large = self.get(|_| LARGE_FILE.to_owned()).await;
        let share = (bytes as f64 - small.bytes as f64) / (large.bytes as f64 - small.bytes as f64);
        let seconds = (1.0 / small.rate) + share.max(0.0) * (1.0 / large.rate - 1.0 / small.rate);
        1.0 / seconds
    }
}

/// Compares a read with a static file of its size.
async fn reads(
    report: &mut Report,
    load: &Load,
    what: &str,
    path: impl Fn(usize) -> String + Send + Sync,
    at_least: f64,
) {
    let (mut pairs, mut bytes) = (Pairs::default(), 0);
    for _ in 0..PAIRS {
        let sent = load.get(&path).await;
        bytes = sent.bytes;
        pairs.add(sent.rate, load.static_rate(bytes).await);
    }
    let description = format!("(o) {what}, {} bytes", thousands(bytes as f64));
    let peer = ("static file of that size", pairs.peer());
    report.rate(&description, pairs.ours(), peer, pairs.ratio(), Some(at_least));
}

fn label(path: String, number: usize) -> (Method, String, Option<Value>) {
    (Method::PATCH, path, Some(json!({"labels": {"bench": format!("v{number}")}})))
}

/// Changes a label of a device with each request.
async fn writes(report: &mut Report, load: &Load, path: impl Fn(usize) -> String + Send + Sync) {
    let sent = load.send(WRITES, |number| label(path(number), number)).await;
    let p50 = median(sent.latencies.clone());
    let p99 = percentile(sent.latencies, 0.99);
    report.add(Row {
        description: "(o) changes of a label, each response has the device".to_owned(),
        value: format!("{}/s, p50 {p50:.1} ms, p99 {p99:.1} ms", thousands(sent.rate)),
        peer: String::new(),
        ratio: None,
        target: "≥ 2 000/s, p99 ≤ 25 ms".to_owned(),
        is_met: Some(sent.rate >= 2_000.0 && p99 <= 25.0),
    });
}

/// Changes a label, with and without waiting for the read model, and reads the device with another
/// client after each response.
async fn reads_after_writes(
    report: &mut Report,
    load: &Load,
    path: impl Fn(usize) -> String + Send + Sync,
) {
    let (writer, reader) = (&load.clients[0], &load.clients[1]);
    let (mut stale, mut waited, mut unwaited) = (0, Vec::new(), Vec::new());
    for number in 0..READS_AFTER_WRITES {
        let (method, at, body) = label(path(number), number);
        let expected = body.as_ref().map(|body| body["labels"]["bench"].clone()).unwrap();
        let sent_at = Instant::now();
        let _ = load.one(writer, (method, at.clone(), body)).await;
        waited.push(1000.0 * sent_at.elapsed().as_secs_f64());
        let read = load.one(reader, (Method::GET, at, None)).await;
        let read: Value = serde_json::from_slice(&read).unwrap();
        stale += usize::from(read["labels"]["bench"] != expected);
        if number.is_multiple_of(10) {
            unwaited.push(without_wait(load, writer, &path(number + 1), number).await);
        }
    }
    let (with, without) = (median(waited), median(unwaited));
    report.add(Row {
        description: "(o) a change, then a read by another client".to_owned(),
        value: format!("{stale} stale of {}", thousands(READS_AFTER_WRITES as f64)),
        peer: String::new(),
        ratio: None,
        target: "0".to_owned(),
        is_met: Some(stale == 0),
    });
    report.add(Row {
        description: "(o) wait of a change for the read model, p50".to_owned(),
        value: format!("{:.1} ms ({with:.1} ms)", with - without),
        peer: format!("`Prefer: respond-async`: {without:.1} ms"),
        ratio: None,
        target: "≤ 5 ms".to_owned(),
        is_met: Some(with - without <= 5.0),
    });
}

/// Changes a label without waiting; returns the duration in milliseconds.
async fn without_wait(load: &Load, client: &Client, path: &str, number: usize) -> f64 {
    let request = client.patch(format!("{}{path}", load.url)).bearer_auth(&load.token);
    let body = json!({"labels": {"bench": format!("w{number}")}});
    let sent_at = Instant::now();
    let response = request.header("prefer", "respond-async").json(&body).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let _ = response.bytes().await.unwrap();
    1000.0 * sent_at.elapsed().as_secs_f64()
}
