//! (c) Metric points from the broker into InfluxDB through the released ingest, and through its
//! sink alone, compared with posting the same line protocol directly to the same InfluxDB.
//!
//! Each variant has a separate database with the same series, created before the measurement.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_nats::jetstream;
use futures::future::join_all;
use muster_ingest::metrics::{MetricSink, Outcome, SinkSettings};
use muster_metric_store::{InfluxClient, Lines, Origin, StoreSettings, WriteResponse, encode};
use muster_schemas::subjects::{DeviceSubjects, METRICS_STREAM};
use muster_schemas::{ProjectId, Timestamp};

use crate::field::{DEVICES, Field, drain_rate};
use crate::pairs::{PAIRS, Pairs};
use crate::report::Report;
use muster_simulate::samples::{POINTS, batch};

/// Number of batches of each device in a round.
const ROUNDS: usize = 100;
const BATCHES: u64 = (ROUNDS * DEVICES) as u64;
const TOTAL: f64 = (BATCHES * POINTS) as f64;
/// Number of requests in flight, like the sink's default.
const REQUESTS: usize = 3;

/// Measures both variants.
pub(crate) async fn measure(field: &mut Field, report: &mut Report) {
    field.fleet.query.stop();
    let (straight, sink) = (client(field, "straight").await, client(field, "sink").await);
    let (mut whole, mut alone) = (Pairs::default(), Pairs::default());
    // The first round creates the series and is not counted.
    for round in 0..=PAIRS {
        let ingest = through_ingest(field, round).await;
        let lines = lines(field, round);
        let posted = post(&straight, &lines).await;
        let sunk = through_sink(&sink, lines).await;
        if round > 0 {
            whole.add(ingest, posted);
            alone.add(sunk, posted);
        }
    }
    field.fleet.query.restart();
    let peer = ("posting", whole.peer());
    let target = Some(0.8);
    report.rate("(c) metric points, whole ingest", whole.ours(), peer, whole.ratio(), target);
    report.rate("(c) metric points, sink alone", alone.ours(), peer, alone.ratio(), None);
}

/// The time of a step; each round has a separate hour.
fn time(round: usize, step: usize) -> Timestamp {
    let now = Timestamp::from(std::time::SystemTime::now()).0;
    let hours = 1 + round as i64;
    Timestamp((now / 3_600_000_000 - hours) * 3_600_000_000 + step as i64 * 10_000_000)
}

async fn client(field: &Field, database: &str) -> Arc<InfluxClient> {
    let settings = StoreSettings {
        database: database.to_owned(),
        ..field.fleet.influx.store_settings().clone()
    };
    let client = InfluxClient::new(settings).unwrap();
    client.create_database().await.unwrap();
    Arc::new(client)
}

async fn through_ingest(field: &mut Field, round: usize) -> f64 {
    field.fleet.ingest.stop();
    let messages = field.by_link(|chain| {
        let subject = DeviceSubjects::new(&chain.project, chain.device).live_metrics("host");
        let number = link_of(field, chain.device);
        let bytes = |step| batch(number, step, time(round, step)).encode().into();
        (0..ROUNDS).map(|step| (subject.clone(), bytes(step))).collect()
    });
    field.publish(messages).await;
    let stream = jetstream::new(field.links[0].clone()).get_stream(METRICS_STREAM).await.unwrap();
    field.fleet.ingest.restart();
    drain_rate(BATCHES, || async {
        let reader = stream.consumer_info("metrics").await.unwrap();
        BATCHES.saturating_sub(reader.num_pending + reader.num_ack_pending as u64)
    })
    .await
        * POINTS as f64
}

fn link_of(field: &Field, device: muster_schemas::DeviceId) -> usize {
    field.chains.iter().position(|chain| chain.device == device).unwrap()
}

/// The lines that ingest encodes from the same batches, in the same order.
fn lines(field: &Field, round: usize) -> Vec<Lines> {
    let project = ProjectId::default_project();
    let mut all = Vec::new();
    for step in 0..ROUNDS {
        for (number, chain) in field.chains.iter().enumerate() {
            let name = format!("bench-{number}");
            let origin = Origin { project: &project, device: chain.device, name: &name };
            all.push(encode(&batch(number, step, time(round, step)), &origin));
        }
    }
    all
}

/// Posts bodies that are built before the measurement, split like the sink's.
async fn post(client: &Arc<InfluxClient>, lines: &[Lines]) -> f64 {
    let settings = SinkSettings::default();
    let (mut bodies, mut body, mut count) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let is_full = count + line.count() > settings.max_lines
            || body.len() + line.bytes() > settings.max_bytes;
        if is_full {
            bodies.push(client.pack(std::mem::take(&mut body)));
            count = 0;
        }
        body.extend_from_slice(line.as_str().as_bytes());
        count += line.count();
    }
    bodies.push(client.pack(body));
    bodies.reverse();
    let queue = Arc::new(Mutex::new(bodies));
    let start = Instant::now();
    let posters = (0..REQUESTS).map(|_| {
        let (queue, client) = (queue.clone(), client.clone());
        tokio::spawn(async move {
            loop {
                let body = queue.lock().unwrap().pop();
                let Some(body) = body else { break };
                assert_eq!(client.write(body).await, WriteResponse::Written);
            }
        })
    });
    for poster in join_all(posters).await {
        poster.unwrap();
    }
    TOTAL / start.elapsed().as_secs_f64()
}

async fn through_sink(client: &Arc<InfluxClient>, lines: Vec<Lines>) -> f64 {
    let (sink, task) = MetricSink::start(client.clone(), SinkSettings::default());
    let start = Instant::now();
    let mut written = Vec::with_capacity(lines.len());
    for line in lines {
        written.push(sink.submit(line).await.unwrap());
    }
    for outcome in join_all(written).await {
        assert_eq!(outcome, Outcome::Written);
    }
    let seconds = start.elapsed().as_secs_f64();
    task.drain(std::time::Duration::from_secs(5)).await;
    TOTAL / seconds
}
