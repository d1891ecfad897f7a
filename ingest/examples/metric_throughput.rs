//! Points a second into a real InfluxDB: through the sink, and posting the same line protocol
//! straight to it. Prints a table; proves nothing by itself.

#![allow(clippy::too_many_lines, reason = "a test is a sequence of steps")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "values made up, and far from the limits"
)]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;
use muster_ingest::metrics::*;
use muster_metric_store::*;
use muster_schemas::metrics::{MetricBatch, Point};
use muster_schemas::{DeviceId, Timestamp};
use std::sync::Arc;
use std::time::Instant;

const DEVICES: usize = 200;
const ROUNDS: usize = 250;

fn batches() -> Vec<(usize, MetricBatch)> {
    let mut out = Vec::new();
    for round in 0..ROUNDS {
        for device in 0..DEVICES {
            let x = |n: usize| ((round * 7919 + device * 104_729 + n * 31) % 10_000) as f64 / 100.0;
            let mut points = Vec::new();
            for cpu in 0..5 {
                let mut p = Point::new("cpu")
                    .tag("cpu", if cpu == 4 { "cpu-total".into() } else { format!("cpu{cpu}") });
                for (n, f) in [
                    "usage_user",
                    "usage_system",
                    "usage_idle",
                    "usage_nice",
                    "usage_iowait",
                    "usage_irq",
                    "usage_softirq",
                    "usage_steal",
                    "usage_guest",
                    "usage_guest_nice",
                    "usage_active",
                ]
                .into_iter()
                .enumerate()
                {
                    p = p.field(f, if n < 3 { f64::from(x(n + cpu) as f32) } else { 0.0 });
                }
                points.push(p);
            }
            let mut p = Point::new("mem");
            for (n, f) in [
                "total",
                "available",
                "used",
                "free",
                "cached",
                "buffered",
                "active",
                "inactive",
                "slab",
                "shared",
                "dirty",
                "mapped",
                "swap_total",
                "swap_free",
            ]
            .into_iter()
            .enumerate()
            {
                p = p.field(f, (x(n) * 1e7) as i64);
            }
            points.push(p);
            for d in ["sda", "sda1", "sda2"] {
                let mut p = Point::new("diskio").tag("name", d);
                for (n, f) in [
                    "reads",
                    "writes",
                    "read_bytes",
                    "write_bytes",
                    "read_time",
                    "write_time",
                    "io_time",
                    "weighted_io_time",
                    "iops_in_progress",
                    "merged_reads",
                    "merged_writes",
                ]
                .into_iter()
                .enumerate()
                {
                    p = p.field(f, (x(n) * 1e5) as i64 + round as i64 * 1000);
                }
                points.push(p);
            }
            for d in ["eth0", "wlan0"] {
                let mut p = Point::new("net").tag("interface", d);
                for (n, f) in [
                    "bytes_sent",
                    "bytes_recv",
                    "packets_sent",
                    "packets_recv",
                    "err_in",
                    "err_out",
                    "drop_in",
                    "drop_out",
                ]
                .into_iter()
                .enumerate()
                {
                    p = p.field(f, (x(n) * 1e5) as i64 + round as i64 * 1000);
                }
                points.push(p);
            }
            points.push(
                Point::new("system")
                    .field("load1", x(1))
                    .field("load5", x(2))
                    .field("load15", x(3))
                    .field("n_cpus", 4_i64)
                    .field("uptime", round as i64 * 10),
            );
            out.push((
                device,
                MetricBatch {
                    time: Timestamp(1_795_420_800_000_000 + round as i64 * 10_000_000),
                    points,
                },
            ));
        }
    }
    out
}

fn lines_of(batches: &[(usize, MetricBatch)]) -> Vec<Lines> {
    let project = "default".parse().unwrap();
    batches
        .iter()
        .map(|(device, batch)| {
            let id: DeviceId = format!("0198c0de-7000-7abc-8def-{device:012x}").parse().unwrap();
            let name = format!("robot-{device}");
            encode(batch, &Origin { project: &project, device: id, name: &name })
        })
        .collect()
}

#[tokio::main]
async fn main() {
    let gzips: Vec<bool> = std::env::args().skip(1).map(|a| a == "gzip").collect();
    let gzips = if gzips.is_empty() { vec![false, true] } else { gzips };
    let batches = batches();
    let start = Instant::now();
    let lines = lines_of(&batches);
    let took = start.elapsed();
    let points: usize = lines.iter().map(Lines::count).sum();
    let bytes: usize = lines.iter().map(Lines::bytes).sum();
    println!(
        "{points} points, {bytes} bytes of lines ({} a point), {} messages",
        bytes / points,
        lines.len()
    );
    println!("encode alone: {:.0} points/s", points as f64 / took.as_secs_f64());
    for gzip in gzips {
        for _ in 0..2 {
            for mode in ["straight", "sink", "sink+encode"] {
                let store = support::Influx::start("").await.unwrap();
                let mut settings = StoreSettings::new(&store.url(), "metrics");
                settings.gzip = gzip;
                let client = Arc::new(InfluxClient::new(settings).unwrap());
                client.create_database().await.unwrap();
                // The connection, detection and series creation are warm in all modes.
                let first: Vec<u8> =
                    lines[..DEVICES].iter().flat_map(|l| l.as_str().bytes()).collect();
                assert_eq!(client.write(client.pack(first)).await, WriteResponse::Written);
                let (start, cpu) = (Instant::now(), cpu_seconds());
                if mode == "straight" {
                    // Built beforehand, as the sink cuts them: 5000 lines or 1 MiB.
                    let mut bodies = vec![(Vec::new(), 0)];
                    for l in &lines {
                        let last = bodies.last_mut().unwrap();
                        if last.1 + l.count() > 5000 || last.0.len() + l.bytes() > 1024 * 1024 {
                            bodies.push((Vec::new(), 0));
                        }
                        let last = bodies.last_mut().unwrap();
                        last.0.extend_from_slice(l.as_str().as_bytes());
                        last.1 += l.count();
                    }
                    let bodies: Vec<_> = bodies.into_iter().map(|(b, _)| client.pack(b)).collect();
                    let queue = Arc::new(std::sync::Mutex::new(bodies));
                    let (start, cpu) = (Instant::now(), cpu_seconds());
                    let tasks: Vec<_> = (0..3)
                        .map(|_| {
                            let (queue, client) = (queue.clone(), client.clone());
                            tokio::spawn(async move {
                                loop {
                                    let Some(body) = queue.lock().unwrap().pop() else { break };
                                    assert_eq!(client.write(body).await, WriteResponse::Written);
                                }
                            })
                        })
                        .collect();
                    for t in tasks {
                        t.await.unwrap();
                    }
                    report(gzip, mode, points, start, cpu);
                } else {
                    let (sink, task) = MetricSink::start(client, SinkSettings::default());
                    let mut done = Vec::new();
                    if mode == "sink" {
                        for l in &lines {
                            done.push(sink.submit(l.clone()).await.unwrap());
                        }
                    } else {
                        let project = "default".parse().unwrap();
                        for (device, batch) in &batches {
                            let id: DeviceId =
                                format!("0198c0de-7000-7abc-8def-{device:012x}").parse().unwrap();
                            let name = format!("robot-{device}");
                            done.push(
                                sink.submit(encode(
                                    batch,
                                    &Origin { project: &project, device: id, name: &name },
                                ))
                                .await
                                .unwrap(),
                            );
                        }
                    }
                    for d in done {
                        assert_eq!(d.await, Outcome::Written);
                    }
                    report(gzip, mode, points, start, cpu);
                    assert!(task.drain(std::time::Duration::from_secs(5)).await);
                }
            }
        }
    }
}

fn report(gzip: bool, mode: &str, points: usize, start: Instant, cpu: f64) {
    let took = start.elapsed().as_secs_f64();
    println!(
        "gzip={gzip:<5} {mode:<12} {:>9.0} points/s  ({took:.2} s, our CPU {:.2} s)",
        points as f64 / took,
        cpu_seconds() - cpu
    );
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
