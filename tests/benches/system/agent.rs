//! (f) The released agent at its default interval, compared with Debian's node_exporter, scraped at
//! the same interval like by Prometheus (one persistent connection, gzip). Both are measured over
//! the same seconds.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use muster_tests::System;
use muster_tests::binaries::binary;
use muster_tests::wait;

use crate::process;
use crate::report::{Report, Row};

const DURATION: Duration = Duration::from_secs(80);
/// Duration of the measurement of an agent with nothing to report: pings are 20 s apart.
const SILENT_DURATION: Duration = Duration::from_secs(240);
/// Headers of a segment, in bytes: IPv4, and TCP with timestamps.
const HEADER_BYTES: u64 = 52;
/// The agent's default interval, and that of the scrapes.
const INTERVAL: Duration = Duration::from_secs(10);

struct Exporter {
    child: Child,
    port: u16,
    program: PathBuf,
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_exporter() -> Option<Exporter> {
    let paths = std::env::var_os("PATH")?;
    let program = std::env::split_paths(&paths)
        .map(|dir| dir.join("prometheus-node-exporter"))
        .find(|file| file.is_file())?;
    let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
    let child = Command::new(&program)
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    Some(Exporter { child, port, program })
}

/// Scrapes on a persistent connection; returns the bytes of request and response.
fn scrape(connection: &mut TcpStream) -> std::io::Result<u64> {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\
                   Accept: text/plain;version=0.0.4\r\nUser-Agent: Prometheus/2.42.0\r\n\r\n";
    connection.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    let mut buffer = [0; 65536];
    // Chunked, or with a length; the connection stays open, so a read timeout ends the response.
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    loop {
        match connection.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => response.extend_from_slice(&buffer[..count]),
        }
        connection.set_read_timeout(Some(Duration::from_millis(300)))?;
    }
    Ok((request.len() + response.len()) as u64)
}

/// Resources that a process used during the measurement.
struct Cost {
    resident_mb: f64,
    cpu_percent: f64,
    bytes_per_hour: Option<f64>,
    stripped_mb: f64,
}

/// Measures both programs.
pub(crate) async fn measure(report: &mut Report) {
    let mut system = System::start_with(&[]).await;
    let pid = wait::until("the agent", Duration::from_secs(30), || {
        let found = process::find("muster-agent", &system.dir());
        async move { found }
    })
    .await;
    let exporter = start_exporter();
    let mut connection = None;
    if let Some(exporter) = &exporter {
        let connected = wait::until("node_exporter", Duration::from_secs(10), || async {
            TcpStream::connect(("127.0.0.1", exporter.port)).ok()
        });
        connection = Some(connected.await);
    }
    // Afterwards both are idle: the agent has sent its initial reports.
    tokio::time::sleep(Duration::from_secs(15)).await;

    let other = exporter.as_ref().map(|exporter| exporter.child.id());
    let cpu = |pid: u32| process::cpu_seconds(pid);
    let before = (cpu(pid), other.map(cpu), process::traffic(pid));
    let (start, mut scraped) = (Instant::now(), 0);
    let mut interval = tokio::time::interval(INTERVAL);
    while start.elapsed() < DURATION {
        interval.tick().await;
        if let Some(connection) = &mut connection
            && start.elapsed() < DURATION
        {
            scraped += scrape(connection).unwrap();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let an_hour = |bytes: u64| bytes as f64 * 3600.0 / seconds;
    let sent =
        process::traffic(pid).zip(before.2).map(|(after, before)| after.bytes - before.bytes);
    let agent = Cost {
        resident_mb: process::resident_mb(pid),
        cpu_percent: 100.0 * (cpu(pid) - before.0) / seconds,
        bytes_per_hour: sent.filter(|bytes| *bytes > 0).map(an_hour),
        stripped_mb: process::stripped_mb(&release_binary()),
    };
    let peer = exporter.as_ref().zip(before.1).map(|(exporter, before)| Cost {
        resident_mb: process::resident_mb(exporter.child.id()),
        cpu_percent: 100.0 * (cpu(exporter.child.id()) - before) / seconds,
        bytes_per_hour: Some(an_hour(scraped)),
        stripped_mb: process::stripped_mb(&exporter.program),
    });
    let silent = connection_alone(&system, pid).await;
    system.stop().await;
    add_rows(report, &agent, peer.as_ref());
    if let Some((silent, measuring)) = silent.zip(agent.bytes_per_hour) {
        traffic(report, &silent, measuring);
    }
}

/// Bytes per hour.
struct Silent {
    without_headers: f64,
    with_headers: f64,
}

/// Traffic with nothing to report: pings, and their TLS overhead.
async fn connection_alone(system: &System, pid: u32) -> Option<Silent> {
    let name = system.api.list("/api/v1/devices").await[0]["name"].as_str()?.to_owned();
    let path = format!("/api/v1/devices/{name}/config");
    system.api.patch(&path, &serde_json::json!({"vars": {"metrics.groups": ""}})).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let (before, start) = (process::traffic(pid)?, Instant::now());
    tokio::time::sleep(SILENT_DURATION).await;
    let after = process::traffic(pid)?;
    let an_hour = |bytes: u64| bytes as f64 * 3600.0 / start.elapsed().as_secs_f64();
    let bytes = after.bytes - before.bytes;
    let headers = (after.segments - before.segments) * HEADER_BYTES;
    Some(Silent { without_headers: an_hour(bytes), with_headers: an_hour(bytes + headers) })
}

/// Traffic, as billed by a cellular contract. The peer's values are those that balena publishes for
/// its own agent: an idle connection, and its metrics of the device.
fn traffic(report: &mut Report, silent: &Silent, measuring: f64) {
    let a_month = |bytes_an_hour: f64| bytes_an_hour * 24.0 * 30.0 / 1e6;
    let metrics = measuring - silent.without_headers;
    let limit = Some(15.0);
    for (what, bytes, peer, limit) in [
        ("the connection alone", silent.without_headers, 80.0, limit),
        ("the same, with the headers of TCP and IP", silent.with_headers, 80.0, None),
        ("metrics every 10 s", metrics, 72.0, None),
        ("metrics every 60 s", metrics * 10.0 / 60.0, 72.0, None),
    ] {
        report.add(Row {
            description: format!("(f) a month on the wire: {what}"),
            value: format!("{:.0} MB", a_month(bytes)),
            peer: format!("balena, published: {peer:.0} MB"),
            ratio: Some(a_month(bytes) / peer),
            target: limit.map_or(String::new(), |limit| format!("≤ {limit:.0} MB")),
            is_met: limit.map(|limit| a_month(bytes) <= limit),
        });
    }
}

/// The program as released if that was built; otherwise the binary under test.
fn release_binary() -> PathBuf {
    let built = binary("muster-agent");
    let release = built.parent().unwrap_or(Path::new("."));
    let dist = release.with_file_name("dist-agent").join("muster-agent");
    if dist.is_file() { dist } else { built }
}

fn add_rows(report: &mut Report, agent: &Cost, peer: Option<&Cost>) {
    let mut row = |what: &str, of: &dyn Fn(&Cost) -> Option<f64>, unit, limit: Option<f64>| {
        let text = |number: Option<f64>| {
            number.map_or("not counted".to_owned(), |number| format!("{number:.2} {unit}"))
        };
        let value = of(agent);
        report.add(Row {
            description: format!("(f) the agent: {what}"),
            value: text(value),
            peer: peer.map_or("node_exporter is not installed".to_owned(), |peer| {
                format!("node_exporter: {}", text(of(peer)))
            }),
            ratio: value.zip(peer.and_then(of)).map(|(ours, peer)| ours / peer),
            target: limit.map_or(String::new(), |limit| format!("≤ {limit} {unit}")),
            is_met: limit.zip(value).map(|(limit, value)| value <= limit),
        });
    };
    row("resident memory", &|cost| Some(cost.resident_mb), "MB", Some(12.0));
    row("CPU", &|cost| Some(cost.cpu_percent), "% of a core", Some(0.2));
    row("on the wire", &|cost| Some(cost.bytes_per_hour? / 1e6), "MB/h", None);
    row("stripped size", &|cost| Some(cost.stripped_mb), "MB", Some(11.0));
}
