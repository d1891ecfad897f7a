//! (d) From publishing on the device until visible in `GET /devices/{id}`, while other devices
//! publish at a tenth and at half of ingest's maximum rate.

use std::time::{Duration, Instant};

use muster_schemas::ConfigVersion;
use muster_schemas::events::DeviceConfigApplied;
use muster_tests::SimDevice;

use crate::field::{DEVICES, Field, Publisher};
use crate::pairs::percentile;
use crate::report::{Report, Row, thousands};

/// Duration of each rate.
const DURATION: Duration = Duration::from_secs(12);
/// Interval at which each connection publishes.
const TICK: Duration = Duration::from_millis(5);
const TARGET_MS: f64 = 150.0;

/// Measures at both rates.
pub(crate) async fn measure(field: &mut Field, rate: f64, report: &mut Report) {
    field.fleet.ingest.restart();
    field.fleet.query.restart();
    field.fleet.wait_until_ready().await;
    let token = field.fleet.api.enrollment_token(1).await;
    let mut device =
        SimDevice::join(&field.fleet.api, &field.fleet.ca(), &token, "bench-watched").await;
    // When this is visible, the read side has caught up.
    probe(field, &mut device).await;
    for (name, share) in [("a tenth", 0.1), ("half", 0.5)] {
        let load = start_load(field, rate * share);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        let mut taken = Vec::new();
        while start.elapsed() < DURATION {
            taken.push(probe(field, &mut device).await);
        }
        let mut published = 0;
        for link in load {
            published += link.await.unwrap();
        }
        let reached = published as f64 / (DURATION.as_secs_f64() + 1.0);
        let (p50, p99) = (percentile(taken.clone(), 0.5), percentile(taken.clone(), 0.99));
        report.add(Row {
            description: format!("(d) published to visible, at {name} of (b)"),
            value: format!("p50 {p50:.0} ms, p99 {p99:.0} ms"),
            peer: format!("under {}/s, {} probes", thousands(reached), taken.len()),
            ratio: None,
            target: format!("p99 ≤ {TARGET_MS:.0} ms"),
            is_met: Some(p99 <= TARGET_MS),
        });
    }
}

/// Delay until an operator sees a device connect and disconnect, on an idle system.
pub(crate) async fn presence(field: &Field, report: &mut Report) {
    const ROUNDS: usize = 15;
    let fleet = &field.fleet;
    let token = fleet.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&fleet.api, &fleet.ca(), &token, "bench-coming").await;
    let path = format!("/api/v1/devices/{}", device.id());
    let until = async |status: &str| {
        let start = Instant::now();
        while fleet.api.get(&path).await["status"] != status {
            assert!(start.elapsed() < Duration::from_secs(30), "never {status}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        start.elapsed().as_secs_f64() * 1000.0
    };
    until("online").await;
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let SimDevice { enrolled, nats, .. } = device;
        nats.drain().await.unwrap();
        drop(nats);
        went.push(until("offline").await);
        device = SimDevice::connect(enrolled, &fleet.ca()).await;
        came.push(until("online").await);
    }
    for (what, taken, limit) in [("online", came, 1000.0), ("offline", went, 2000.0)] {
        let (p50, worst) = (percentile(taken.clone(), 0.5), percentile(taken, 1.0));
        report.add(Row {
            description: format!("(d) a connection that opens or closes is shown {what}"),
            value: format!("p50 {p50:.0} ms, longest {worst:.0} ms"),
            peer: format!("{ROUNDS} times"),
            ratio: None,
            target: format!("≤ {limit:.0} ms"),
            is_met: Some(worst <= limit),
        });
    }
}

/// Publishes one event and polls until the device shows it; returns milliseconds.
async fn probe(field: &Field, device: &mut SimDevice) -> f64 {
    let version = ConfigVersion(device.chain.events.len() as u64 + 1);
    let event = DeviceConfigApplied { version, errors: Default::default() };
    let sealed = device.chain.record(&event.into());
    let path = format!("/api/v1/devices/{}", device.id());
    let start = Instant::now();
    device.publish_raw(sealed.bytes).await;
    loop {
        let shown = field.fleet.api.get(&path).await;
        if shown["config"]["applied_version"].as_u64() == Some(version.get()) {
            return start.elapsed().as_secs_f64() * 1000.0;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "not shown: {shown}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Publishes at this rate on all connections; each task returns the number of published messages.
fn start_load(field: &mut Field, rate: f64) -> Vec<tokio::task::JoinHandle<usize>> {
    let length = DURATION + Duration::from_secs(1);
    let each = (rate * length.as_secs_f64() / DEVICES as f64).ceil() as u64;
    let by_link = field.seal(each);
    let links = field.links.len() as f64;
    by_link
        .into_iter()
        .zip(field.links.clone())
        .map(|(messages, link)| {
            tokio::spawn(async move {
                let mut publisher = Publisher::new(link);
                let mut tick = tokio::time::interval(TICK);
                let (start, mut published) = (Instant::now(), 0);
                let mut messages = messages.into_iter();
                while start.elapsed() < length {
                    tick.tick().await;
                    let due = (start.elapsed().as_secs_f64() * rate / links) as usize;
                    while published < due {
                        let Some(message) = messages.next() else { break };
                        publisher.publish(message).await;
                        published += 1;
                    }
                }
                publisher.finish().await;
                published
            })
        })
        .collect()
}
