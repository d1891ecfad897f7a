//! (e) Read models rebuilt from the log, compared with one plain binary COPY of all its rows.

use std::time::Instant;

use muster_eventlog::projection::{Projection, Runner};
use muster_eventlog::{Append, Batch, EventLog, Expected, NewEvent};
use muster_query::projections::devices::Devices;
use muster_query::projections::timeline::Timeline;
use muster_query::projections::tokens::Tokens;
use muster_schemas::events::{
    DeviceConfigApplied, DeviceConnected, DeviceEnrolled, DeviceInventoryReported,
    DeviceRegistered, Interface,
};
use muster_schemas::{
    ConfigVersion, DeviceId, Epoch, Event, ProjectId, SigningKey, StreamName, Timestamp,
};
use muster_tests::sim::Chain;
use uuid::Uuid;

use crate::log_server::LogServer;
use crate::pairs::{PAIRS, Pairs};
use crate::report::Report;

const DEVICES: usize = 1_000;
const EVENTS: usize = 150_000;
const TIME: Timestamp = Timestamp(1_795_420_800_000_000);

/// Measures the devices alone, then all projections together, as after an update.
pub(crate) async fn measure(report: &mut Report) {
    let server = LogServer::start().await;
    let project = ProjectId::default_project();
    server.log.ensure_project(&project).await.unwrap();
    fill(&server.log, &project).await;
    let rows = server.head(&project).await;

    let (mut devices, mut all) = (Pairs::default(), Pairs::default());
    let mut scratch = 0;
    for pair in 0..PAIRS {
        for is_all in [false, true] {
            let log = &server.log;
            let ours = if is_all {
                let start = Instant::now();
                tokio::join!(
                    rebuild(log, Devices::new(format!("devices_v5_all{pair}"))),
                    rebuild(log, Timeline::new(format!("timeline_v1_all{pair}"))),
                    rebuild(log, Tokens::new(format!("tokens_v2_all{pair}"))),
                );
                start.elapsed().as_secs_f64()
            } else {
                rebuild(log, Devices::new(format!("devices_v5_one{pair}"))).await
            };
            scratch += 1;
            let peer = copy_once(&server, &project, scratch, rows).await;
            let pairs = if is_all { &mut all } else { &mut devices };
            pairs.add(rows as f64 / ours, rows as f64 / peer);
        }
    }
    let third = Some(1.0 / 3.0);
    let peer = |pairs: &Pairs| ("one COPY", pairs.peer());
    report.rate("(e) devices rebuilt", devices.ours(), peer(&devices), devices.ratio(), third);
    report.rate("(e) all three projections at once", all.ours(), peer(&all), all.ratio(), None);
}

async fn rebuild<P: Projection>(log: &EventLog, projection: P) -> f64 {
    let mut runner = Runner::open(log.clone(), projection).await.unwrap();
    let start = Instant::now();
    runner.catch_up().await.unwrap();
    start.elapsed().as_secs_f64()
}

/// Copies the rows into a separate partition.
async fn copy_once(server: &LogServer, project: &ProjectId, number: usize, rows: u64) -> f64 {
    let scratch: ProjectId = format!("scratch-{number}").parse().unwrap();
    server.scratch(&scratch).await;
    let copies = server.copies(project, &scratch, (0, rows), rows).await;
    server.copy(copies).await
}

fn inventory(number: usize) -> DeviceInventoryReported {
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
        memory_bytes: Some(16_000_000_000 + number as u64),
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

/// Appends a fifth inventories, a half applied configs, the rest connections.
async fn fill(log: &EventLog, project: &ProjectId) {
    let key = SigningKey::from_seed(&[7; 32]);
    let id =
        |number: usize| DeviceId(Uuid::from_u128((0x0198_c0de_7000_7abc << 64) | number as u128));
    let mut chains: Vec<Chain> = (0..DEVICES)
        .map(|number| Chain::new(project.clone(), id(number), Epoch::FIRST, key.clone()))
        .collect();
    let mut appends = Vec::new();
    for number in 0..DEVICES {
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
            let event = NewEvent::server(&event, TIME);
            appends.push(append(StreamName::Device(id(number)), event));
        }
    }
    // An epoch accepts events only when its enrollment is committed.
    commit(log, project, &mut appends).await;
    for number in 0..EVENTS {
        let chain = &mut chains[number.wrapping_mul(7919) % DEVICES];
        let event: Event = match number % 10 {
            0..2 => inventory(number).into(),
            2..7 => DeviceConfigApplied {
                version: ConfigVersion(number as u64),
                errors: [("log.level".to_owned(), "is not known".to_owned())].into(),
            }
            .into(),
            _ => {
                let connected = DeviceConnected {
                    connection: format!("N{number}/7"),
                    address: Some("10.0.0.7".into()),
                };
                let event = NewEvent::server(&connected.into(), TIME);
                appends.push(append(StreamName::DevicePresence(chain.device), event));
                continue;
            }
        };
        let sealed = chain.record(&event);
        let event = NewEvent::sealed(&event, TIME, sealed.bytes);
        appends.push(append(StreamName::DeviceReport(chain.device, Epoch::FIRST), event));
        if appends.len() >= 2_000 {
            commit(log, project, &mut appends).await;
        }
    }
    commit(log, project, &mut appends).await;
}

fn append(stream: StreamName, event: NewEvent) -> Append {
    Append::by_actor("bench").stream(stream, Expected::Any, vec![event])
}

async fn commit(log: &EventLog, project: &ProjectId, appends: &mut Vec<Append>) {
    let batch = Batch { appends: std::mem::take(appends), offset: None };
    for result in log.append_batch(project, batch).await.unwrap() {
        result.unwrap();
    }
}
