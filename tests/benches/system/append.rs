//! (a) Device reports appended to the log, compared with plain binary COPY of the same rows into
//! the same table, with the same number of rows per commit.
//!
//! The rows' HMACs are computed before the measurement, as ingest computes them outside the
//! appender. The measurement includes hashing the leaves, checking the tips, the streams' rows and
//! the head.

use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use muster_eventlog::{
    Append, AppendError, Appended, Batch, EventLog, Expected, LogOptions, NewEvent, StreamAppend,
};
use muster_schemas::events::{DeviceConfigApplied, DeviceEnrolled};
use muster_schemas::{
    ConfigVersion, DeviceId, Epoch, Event, Hash, ProjectId, SigningKey, StreamName, StreamVersion,
    Timestamp,
};
use muster_tests::sim::Chain;
use uuid::Uuid;

use crate::log_server::LogServer;
use crate::pairs::{PAIRS, Pairs};
use crate::report::Report;

const DEVICES: usize = 1_000;
/// Number of batches that wait for the appender.
const MAX_WAITING_BATCHES: usize = 24;
/// Number of events in a batch from ingest.
const INGEST_BATCH_EVENTS: usize = 500;
const TIME: Timestamp = Timestamp(1_795_420_800_000_000);

/// The devices, with the version and tip that the log has of each.
struct Reports {
    event: Event,
    devices: Vec<(DeviceId, Chain, u64, Hash)>,
}

impl Reports {
    fn new(project: &ProjectId) -> Self {
        // A signed event has about 300 bytes.
        let errors = [("log.level".to_owned(), "no such level".to_owned())].into();
        let event = DeviceConfigApplied { version: ConfigVersion(1_000_000), errors }.into();
        let device = |number: usize| {
            let id = DeviceId(Uuid::from_u128((0x0198_c0de_7000_7abc << 64) | number as u128));
            let mut chain = Chain::new(
                project.clone(),
                id,
                Epoch::FIRST,
                SigningKey::from_seed(&rand::random()),
            );
            chain.record(&event);
            (id, chain, 0, Hash::ZERO)
        };
        Self { devices: (0..DEVICES).map(device).collect(), event }
    }

    fn enrollments(&self) -> Batch {
        let enroll = |(id, chain, ..): &(DeviceId, Chain, u64, Hash)| {
            let event: Event = DeviceEnrolled {
                epoch: Epoch::FIRST,
                signing_key: chain.key.public().to_cose_key(),
                fingerprint: chain.key.public().thumbprint(),
                nats_key: "U".into(),
                token: None,
                hostname: None,
                machine: None,
                macs: Vec::new(),
            }
            .into();
            Append::by_actor("bench").stream(
                StreamName::Device(*id),
                Expected::Any,
                vec![NewEvent::server(&event, TIME)],
            )
        };
        Batch { appends: self.devices.iter().map(enroll).collect(), offset: None }
    }

    /// The next events, one per device and append, in batches of `size`. The log checks versions
    /// and tips, not the records, so each device's single signed event is appended repeatedly.
    fn batches(&mut self, count: usize, size: usize) -> Vec<Batch> {
        let mut batches: Vec<Batch> = Vec::new();
        for number in 0..count {
            let (id, chain, seq, tip) = &mut self.devices[number % DEVICES];
            let new_tip = Hash(rand::random());
            let mut append = Append::by_actor(format!("device:{id}"));
            append.streams.push(StreamAppend {
                stream: StreamName::DeviceReport(*id, Epoch::FIRST),
                expected: Expected::Tip { version: StreamVersion(*seq), tip: *tip },
                events: vec![NewEvent::sealed(&self.event, TIME, chain.events[0].bytes.clone())],
                tip: Some(new_tip),
            });
            (*seq, *tip) = (*seq + 1, new_tip);
            if number % size == 0 {
                batches.push(Batch::default());
            }
            batches.last_mut().unwrap().appends.push(append);
        }
        batches
    }
}

/// Appends all batches, always with work waiting; returns seconds.
async fn append(log: &EventLog, project: &ProjectId, batches: Vec<Batch>) -> f64 {
    let start = Instant::now();
    let mut waiting = FuturesOrdered::new();
    let check = |done: Option<Result<Vec<Result<Appended, AppendError>>, AppendError>>| {
        for result in done.unwrap().unwrap() {
            result.unwrap();
        }
    };
    for batch in batches {
        if waiting.len() >= MAX_WAITING_BATCHES {
            check(waiting.next().await);
        }
        waiting.push_back(log.append_batch(project, batch));
    }
    while !waiting.is_empty() {
        check(waiting.next().await);
    }
    start.elapsed().as_secs_f64()
}

/// Measures with 1,000, 200 and 5,000 events per commit.
pub(crate) async fn measure(report: &mut Report) {
    let server = LogServer::start().await;
    let (project, scratch): (ProjectId, ProjectId) =
        ("bench".parse().unwrap(), "scratch".parse().unwrap());
    server.log.ensure_project(&project).await.unwrap();
    server.scratch(&scratch).await;
    let mut reports = Reports::new(&project);
    append(&server.log, &project, vec![reports.enrollments()]).await;

    for (size, count, target) in
        [(1_000, 100_000, Some(0.7)), (200, 60_000, None), (5_000, 150_000, None)]
    {
        let log = server.open(LogOptions { max_batch: size, ..LogOptions::default() }).await;
        let handed_over = INGEST_BATCH_EVENTS.min(size);
        // The session, its statements and its cache of the streams exist before the measurement
        // starts.
        append(&log, &project, reports.batches(5_000, handed_over)).await;
        let mut pairs = Pairs::default();
        for _ in 0..PAIRS {
            let before = server.head(&project).await;
            let batches = reports.batches(count, handed_over);
            let ours = append(&log, &project, batches).await;
            let after = server.head(&project).await;
            let rows = (after - before) as f64;
            let copies = server.copies(&project, &scratch, (before, after), size as u64).await;
            let peer = server.copy(copies).await;
            pairs.add(rows / ours, rows / peer);
        }
        let what = format!("(a) appended to the log, {size} events a commit");
        report.rate(&what, pairs.ours(), ("COPY", pairs.peer()), pairs.ratio(), target);
    }
}
