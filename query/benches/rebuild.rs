//! Measures the rate at which the read models are rebuilt from the log, against a binary COPY of
//! the same rows. Prints a table; asserts no times.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark: it prints, and what fails ends it"
)]

use std::time::Instant;

use bytes::Bytes;
use futures::{SinkExt, TryStreamExt};
use muster_backing::postgres::{Postgres, PostgresOptions, Tuning};
use muster_eventlog::projection::{Projection, Runner};
use muster_eventlog::{Append, Batch, ConnectOptions, EventLog, Expected, LogOptions, NewEvent};
use muster_query::projections::devices::Devices;
use muster_query::projections::timeline::Timeline;
use muster_query::projections::tokens::Tokens;
use muster_schemas::events::{
    DeviceConfigApplied, DeviceConnected, DeviceEnrolled, DeviceInventoryReported,
    DeviceRegistered, Interface,
};
use muster_schemas::{
    ConfigVersion, DeviceEnvelope, DeviceId, Epoch, Event, Hash, Position, ProjectId, Seq,
    SigningKey, StreamName, Timestamp,
};
use uuid::Uuid;

const DEVICES: u128 = 1_000;
const EVENTS: u64 = 200_000;

fn device(number: u128) -> DeviceId {
    DeviceId(Uuid::from_u128((0x0198_c0de_7000_7abc << 64) | number))
}

fn inventory(number: u64) -> DeviceInventoryReported {
    let text = |text: &str| Some(text.to_owned());
    DeviceInventoryReported {
        agent_version: "0.1.0".into(),
        hostname: text("robot"),
        os_id: text("debian"),
        os_version: text("12"),
        os_name: text("Debian GNU/Linux 12 (bookworm)"),
        kernel: text("6.1.0-18-amd64"),
        arch: text("x86_64"),
        cpu_model: text("Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz"),
        cpu_cores: Some(8),
        memory_bytes: Some(16_000_000_000 + number),
        interfaces: vec![Interface {
            name: "eth0".into(),
            mac: text("00:11:22:33:44:55"),
            addresses: vec!["10.0.0.7/24".into(), "fe80::1/64".into()],
            up: true,
        }],
        timezone: text("Europe/Berlin"),
        ..DeviceInventoryReported::default()
    }
}

fn append(stream: StreamName, event: NewEvent) -> Append {
    Append::by_actor("bench").stream(stream, Expected::Any, vec![event])
}

fn report(key: &SigningKey, id: DeviceId, seq: u64, event: &Event) -> Append {
    let time = Timestamp(1_795_420_800_000_000);
    let envelope = DeviceEnvelope {
        project: ProjectId::default_project(),
        device: id,
        epoch: Epoch::FIRST,
        seq: Seq(seq),
        prev: Hash::ZERO,
        boot: Uuid::nil(),
        mono: seq,
        time,
        kind: event.kind().into(),
        version: event.version(),
        data: event.encode(),
    };
    let sealed = NewEvent::sealed(event, time, envelope.seal(key).into());
    append(StreamName::DeviceReport(id, Epoch::FIRST), sealed)
}

async fn fill(log: &EventLog, project: &ProjectId) {
    let key = SigningKey::from_seed(&[7; 32]);
    let time = Timestamp(1_795_420_800_000_000);
    let mut appends = Vec::new();
    for number in 0..DEVICES {
        let id = device(number);
        let registered = DeviceRegistered {
            name: format!("robot-{number}").parse().unwrap(),
            labels: [("env".parse().unwrap(), "prod".parse().unwrap())].into(),
            fingerprint: None,
        };
        let enrolled = DeviceEnrolled {
            epoch: Epoch::FIRST,
            signing_key: key.public().to_cose_key(),
            fingerprint: key.public().thumbprint(),
            nats_key: "U".into(),
            token: None,
            hostname: Some("robot".into()),
            machine: None,
            macs: Vec::new(),
        };
        for event in [Event::from(registered), enrolled.into()] {
            appends.push(append(StreamName::Device(id), NewEvent::server(&event, time)));
        }
    }
    // An epoch exists only once its enrollment is committed.
    commit(log, project, &mut appends).await;
    for number in 0..EVENTS {
        let id = device(u128::from(number.wrapping_mul(7919)) % DEVICES);
        let seq = number;
        appends.push(match number % 10 {
            0..2 => report(&key, id, seq, &inventory(number).into()),
            2..7 => {
                let applied = DeviceConfigApplied {
                    version: ConfigVersion(number),
                    errors: [("log.level".to_owned(), "is not known".to_owned())].into(),
                };
                report(&key, id, seq, &applied.into())
            }
            _ => {
                let connected = DeviceConnected {
                    connection: format!("N{number}/7"),
                    address: Some("10.0.0.7".into()),
                };
                append(StreamName::DevicePresence(id), NewEvent::server(&connected.into(), time))
            }
        });
        if appends.len() >= 2_000 || number + 1 == EVENTS {
            commit(log, project, &mut appends).await;
        }
    }
}

async fn commit(log: &EventLog, project: &ProjectId, appends: &mut Vec<Append>) {
    let batch = Batch { appends: std::mem::take(appends), offset: None };
    for result in log.append_batch(project, batch).await.unwrap() {
        result.unwrap();
    }
}

fn report_rate(label: &str, rows: u64, start: Instant, copy: Option<f64>) -> f64 {
    let seconds = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a count of rows, for people")]
    let rate = rows as f64 / seconds;
    let share = copy.map_or(String::new(), |copy| format!("{:5.1} % of COPY", 100.0 * rate / copy));
    println!("{label:<24} {seconds:7.2} s {rate:10.0} events/s {share}");
    rate
}

async fn rebuild<P: Projection>(log: &EventLog, rows: u64, copy: f64, projection: P) {
    let name = projection.name().to_owned();
    let mut runner = Runner::open(log.clone(), projection).await.unwrap();
    let start = Instant::now();
    runner.catch_up().await.unwrap();
    report_rate(&name, rows, start, Some(copy));
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(PostgresOptions {
        tuning: Tuning::Production,
        ..PostgresOptions::new(dir.path())
    })
    .await
    .unwrap();
    let connect = ConnectOptions::new(postgres.connection_url());
    let log = EventLog::open(&connect, LogOptions::default()).await.unwrap();
    let project = ProjectId::default_project();
    log.ensure_project(&project).await.unwrap();
    fill(&log, &project).await;
    let rows = log.head(&project).await.unwrap().unwrap().position.get();
    println!("{rows} events of {DEVICES} devices");

    let (client, connection) =
        tokio_postgres::connect(&postgres.connection_url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let copied: Vec<Bytes> = client
        .copy_out("COPY (SELECT * FROM events ORDER BY position) TO STDOUT (FORMAT binary)")
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    client
        .batch_execute(
            "CREATE TABLE plain (LIKE events INCLUDING DEFAULTS, PRIMARY KEY (project, position))",
        )
        .await
        .unwrap();
    let start = Instant::now();
    let sink = client.copy_in::<_, Bytes>("COPY plain FROM STDIN (FORMAT binary)").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    for chunk in copied {
        sink.feed(chunk).await.unwrap();
    }
    sink.finish().await.unwrap();
    let copy = report_rate("binary COPY", rows, start, None);

    let start = Instant::now();
    let mut after = Position::ZERO;
    loop {
        let filter =
            muster_eventlog::ReadFilter { after, ..muster_eventlog::ReadFilter::default() };
        let events = log.read(&project, &filter, 5_000).await.unwrap();
        let Some(last) = events.last() else { break };
        after = last.position;
    }
    report_rate("reading alone", rows, start, Some(copy));
    rebuild(&log, rows, copy, Devices::new("devices_v5_rebuild")).await;
    rebuild(&log, rows, copy, Timeline::new("timeline_v1_rebuild")).await;
    rebuild(&log, rows, copy, Tokens::new("tokens_v2_rebuild")).await;
    postgres.stop().await.unwrap();
}
