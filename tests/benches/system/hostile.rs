//! (t) Five hostile devices among 300 well-behaved ones; runs only on request
//! (`make soak KIND=hostile MINUTES=30`): invalid metrics, unreasonable times, floods of events,
//! oversized batches, foreign reply subjects. The well-behaved devices' events and metrics must be
//! complete, their delay at most doubled, and memory flat.
//!
//! The first fifth of the time is without the hostile devices, for comparison.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use async_nats::HeaderMap;
use bytes::Bytes;
use muster_schemas::Timestamp;
use muster_schemas::metrics::{FieldValue, MetricBatch, Point};
use muster_schemas::subjects::DEVICE_PUBLISHES;
use muster_simulate::{Counters, Enrolled, Fleet, FleetOptions};
use muster_tests::sim::enroll;
use muster_tests::{SimDevice, System};
use reqwest::Method;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::process;
use crate::report::{Report, Row};

/// Number of well-behaved devices, simulated.
const HONEST_DEVICES: usize = 300;
/// Time before the measurement starts.
const WARM_UP: Duration = Duration::from_secs(30);
/// Interval between probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum ratio of the delay with hostile devices to the delay without.
const MAX_DELAY_RATIO: f64 = 2.0;
/// Maximum growth of a process's memory since the start of the attacks, as a factor.
const MAX_GROWTH: f64 = 1.25;
const WEEK: i64 = 7 * 86_400_000_000;

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Delays in milliseconds, and values that never arrived.
#[derive(Default)]
struct Delays {
    events: Vec<f64>,
    points: Vec<f64>,
    lost: usize,
}

fn percentile(delays: &[f64], share: f64) -> f64 {
    let mut sorted = delays.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

impl Delays {
    /// Sends one event and one point of a well-behaved device, and waits until both are readable.
    async fn probe(&mut self, system: &System, probe: &mut SimDevice, number: i64) {
        let sent = Instant::now();
        probe.chain.record_many(1);
        probe.sync(PROBE_TIMEOUT).await;
        self.events.push(sent.elapsed().as_secs_f64() * 1e3);

        let sent = Instant::now();
        let points = vec![Point::new("probe").field("n", number)];
        probe.measure(&MetricBatch { time: now(), points }).await;
        let path = "/api/v1/devices/probe/metrics?field=probe.n&fn=last&since=10m&step=10m";
        loop {
            let response = system.api.try_send(Method::GET, path, None).await;
            let points = response.map(|(_, body)| body["series"][0]["points"].clone());
            let newest = points.as_ref().and_then(|points| points.as_array()?.last());
            if newest.is_some_and(|point| point["value"].as_i64() >= Some(number)) {
                self.points.push(sent.elapsed().as_secs_f64() * 1e3);
                return;
            }
            if sent.elapsed() > PROBE_TIMEOUT {
                self.lost += 1;
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A batch with a text field of this many bytes.
fn batch_of_text(bytes: usize) -> Bytes {
    let points = vec![Point::new("app").field("t", FieldValue::Text("':".repeat(bytes / 2)))];
    MetricBatch { time: now(), points }.encode().into()
}

/// Connects the hostile devices and runs their attacks until the token is canceled. The thread has
/// the lowest priority: real ones run on other machines, and only the servers' work for them counts.
fn attack_from_a_thread(
    hostile: Vec<Enrolled>,
    ca: PathBuf,
    victim: String,
    stop: CancellationToken,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        rustix::process::setpriority_process(None, 19).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut attacks = JoinSet::new();
            for (kind, enrolled) in hostile.into_iter().enumerate() {
                let device = SimDevice::connect(enrolled, &ca).await;
                attacks.spawn(attack(device, kind, victim.clone()));
            }
            stop.cancelled().await;
        });
    })
}

/// Runs the attacks of one hostile device, once a second, without end.
async fn attack(device: SimDevice, kind: usize, victim: String) {
    let subjects = |what: &str| format!("muster.default.{}.{}", device.id(), what);
    loop {
        match kind {
            0 => device.flood_metrics(3_000).await,
            1 => {
                let at = |week: i64| Point {
                    offset: -week * WEEK,
                    ..Point::new("app").field("v", 1_i64)
                };
                let points = (1..=1_000).map(at).chain([at(-1)]).collect();
                let batch = MetricBatch { time: now(), points }.encode();
                let _ = device.nats.publish(subjects("met.backfill"), batch.into()).await;
            }
            2 => {
                for number in 0..500_u32 {
                    let junk = Bytes::from(format!("junk {number}"));
                    let _ = device.nats.publish(subjects("evt"), junk).await;
                }
            }
            3 => {
                // The largest batches that the broker accepts, and larger ones.
                let (largest, oversized) = (batch_of_text(65_000), batch_of_text(420_000));
                for number in 0..56 {
                    let batch = if number % 7 == 0 { &oversized } else { &largest };
                    let subject = subjects("met.live.host");
                    let _ = device.nats.publish(subject, batch.clone()).await;
                }
            }
            _ => {
                for what in DEVICE_PUBLISHES {
                    let subject = subjects(&what.replace('*', "1"));
                    for reply in ["cmd", "ack", "evt"] {
                        let reply = format!("muster.default.{victim}.{reply}");
                        let body = Bytes::from_static(b"hostile");
                        let mut headers = HeaderMap::new();
                        headers.insert("Nats-Trace-Dest", reply.as_str());
                        let client = &device.nats;
                        let _ =
                            client.publish_with_reply(subject.clone(), reply, body.clone()).await;
                        let _ = client.publish_with_headers(subject.clone(), headers, body).await;
                    }
                }
            }
        }
        let _ = device.nats.flush().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Memory of the servers, in megabytes.
fn memory(system: &System) -> Vec<(&'static str, f64)> {
    let mut found = vec![("muster", process::proportional_mb(system.pid()))];
    for name in ["nats-server", "influxd"] {
        if let Some(pid) = process::find(name, &system.dir()) {
            found.push((name, process::proportional_mb(pid)));
        }
    }
    found
}

/// Runs the comparison and the attacks, and reports the results.
pub(crate) async fn measure(report: &mut Report, minutes: u64, print: &impl Fn(&str)) {
    let system = System::start().await;
    let token = system.api.enrollment_token(u32::try_from(HONEST_DEVICES).unwrap() + 6).await;
    let mut probe = SimDevice::join(&system.api, &system.ca(), &token, "probe").await;
    let mut hostile = Vec::new();
    for number in 0..5 {
        let name = format!("hostile-{number}");
        hostile.push(enroll(&system.api, &token, &name).await);
    }
    let options = FleetOptions {
        url: system.api.url.clone(),
        ca: Some(system.ca()),
        token,
        devices: HONEST_DEVICES,
        prefix: "honest".to_owned(),
        profile: "churn".parse().unwrap(),
    };
    let counters = Arc::new(Counters::default());
    let enrolled = Fleet::enroll(&options, &counters).await.unwrap();
    let fleet = Fleet::start(&options, enrolled, Arc::clone(&counters)).unwrap();

    // Time for the devices to connect and send what they have recorded.
    tokio::time::sleep(WARM_UP).await;

    let lasts = Duration::from_secs(60 * minutes);
    let (mut before, mut during) = (Delays::default(), Delays::default());
    let (stop, mut attacks, mut samples) = (CancellationToken::new(), None, Vec::new());
    let (started_at, mut number, mut reported) = (Instant::now(), 0, 0);
    while started_at.elapsed() < lasts {
        let share = started_at.elapsed().as_secs_f64() / lasts.as_secs_f64();
        if share > 0.2 && attacks.is_none() {
            let hostile = std::mem::take(&mut hostile);
            let stop = stop.clone();
            attacks = Some(attack_from_a_thread(hostile, system.ca(), probe.id(), stop));
        }
        number += 1;
        let delays = if attacks.is_none() { &mut before } else { &mut during };
        delays.probe(&system, &mut probe, number).await;
        samples.push((share, memory(&system)));
        let tenth = (share * 10.0) as u32;
        if tenth > reported {
            reported = tenth;
            let [events, points] = [&during.events, &during.points].map(|it| percentile(it, 0.5));
            print(&format!(
                "(t) {tenth}0 %: events {events:.0} ms, points {points:.0} ms; {:?}",
                memory(&system)
            ));
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
    stop.cancel();
    if let Some(attacks) = attacks {
        tokio::task::spawn_blocking(|| attacks.join().unwrap()).await.unwrap();
    }
    fleet.finish(Duration::from_secs(120)).await;
    let snapshot = counters.snapshot();
    let lost = snapshot.events - snapshot.committed
        + snapshot.differing
        + (snapshot.batches - snapshot.batches_stored)
        + (before.lost + during.lost) as u64;
    report.add(Row {
        description: format!(
            "(t) {minutes} minutes, {HONEST_DEVICES} honest devices, five hostile ones"
        ),
        value: format!(
            "{} events in the log, {} metric batches taken, {} probes; {lost} lost",
            snapshot.committed,
            snapshot.batches_stored,
            before.points.len() + during.points.len()
        ),
        peer: String::new(),
        ratio: None,
        target: "nothing lost".to_owned(),
        is_met: Some(lost == 0),
    });
    for (what, without, with) in [
        ("an event's delay", &before.events, &during.events),
        ("a point's delay", &before.points, &during.points),
    ] {
        for (name, share) in [("p50", 0.5), ("p95", 0.95)] {
            let (without, with) = (percentile(without, share), percentile(with, share));
            report.add(Row {
                description: format!("(t) {what}, {name}"),
                value: format!("{with:.0} ms"),
                peer: format!("without the hostile devices: {without:.0} ms"),
                ratio: Some(with / without),
                target: format!("≤ {:.0} %", 100.0 * MAX_DELAY_RATIO),
                is_met: Some(with <= without * MAX_DELAY_RATIO),
            });
        }
    }
    // InfluxDB keeps new points in memory and writes them out every ten minutes: peaks are compared.
    let peak = |name: &str, from: f64, to: f64| {
        samples
            .iter()
            .filter(|(share, _)| (from..to).contains(share))
            .flat_map(|(_, all)| all.iter().filter(|(one, _)| *one == name).map(|(_, mb)| *mb))
            .fold(0.0, f64::max)
    };
    for name in ["muster", "nats-server", "influxd"] {
        let (early, late) = (peak(name, 0.4, 0.7), peak(name, 0.7, 2.0));
        report.add(Row {
            description: format!("(t) peak memory of {name} in the last third"),
            value: format!("{late:.1} MB"),
            peer: format!("in the third before it: {early:.1} MB"),
            ratio: Some(late / early),
            target: format!("≤ {:.0} %", 100.0 * MAX_GROWTH),
            is_met: Some(late <= early * MAX_GROWTH),
        });
    }
}
