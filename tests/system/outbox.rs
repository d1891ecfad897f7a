//! The real agent's outbox with servers that are unavailable, lose data, or are restored from an
//! older backup: every recorded event is in the log once and in order, and a loss on both sides is
//! declared.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use futures::StreamExt;
use muster_agent::outbox::{Limits, RecordError};
use muster_schemas::stream::StreamName;
use muster_schemas::subjects::{self, EVENTS_STREAM};
use muster_schemas::wire::Ack;
use muster_schemas::{Epoch, codec};
use muster_tests::backup::{delete_events_stream, dump, restore, restore_database};
use muster_tests::fleet::Fleet;
use muster_tests::{InProcessAgent, SimDevice, wait};
use serde_json::Value;

use crate::faults::assert_rebuild_equals_live;

const WAIT_TIMEOUT: Duration = Duration::from_secs(90);

/// The device's reports in the log, by epoch.
type LoggedReports = BTreeMap<Epoch, Vec<Value>>;

async fn join(fleet: &Fleet, limits: Limits) -> InProcessAgent {
    let token = fleet.api.enrollment_token(1).await;
    InProcessAgent::join(fleet.dir(), &fleet.api.url, &token, "robot", limits).await
}

/// Reads them, and checks that no version of an epoch is missing or duplicated.
async fn logged_reports(fleet: &Fleet) -> LoggedReports {
    let mut reports = LoggedReports::new();
    for event in fleet.api.list("/api/v1/devices/robot/events?order=asc").await {
        let stream = event["stream"].as_str().unwrap_or_default().parse();
        let Ok(StreamName::DeviceReport(_, epoch)) = stream else { continue };
        let version = event["version"].as_u64();
        let events = reports.entry(epoch).or_default();
        events.push(event);
        assert_eq!(version, Some(events.len() as u64), "{:?}", events.last());
    }
    reports
}

/// The numbers of the numbered events, in the order of the log.
fn numbers(reports: &LoggedReports) -> Vec<u64> {
    let all = reports.values().flatten();
    let numbered = all.filter(|event| event["type"] == "DeviceConfigApplied");
    numbered.map(|event| event["data"]["version"].as_u64().unwrap()).collect()
}

fn losses(reports: &LoggedReports) -> Vec<Value> {
    let all = reports.values().flatten();
    let lost = all.filter(|event| event["type"] == "DeviceHistoryLost");
    lost.map(|event| event["data"].clone()).collect()
}

/// Waits until the log has the newest numbered event.
async fn wait_until_logged(fleet: &Fleet, agent: &InProcessAgent) -> LoggedReports {
    let newest = agent.recorded();
    let path = "/api/v1/devices/robot/events?type=DeviceConfigApplied&order=desc&limit=1";
    wait::until("the newest event to be in the log", WAIT_TIMEOUT, || async {
        let (_, newest_logged) = fleet.api.try_send(reqwest::Method::GET, path, None).await?;
        (newest_logged["items"][0]["data"]["version"].as_u64() == Some(newest)).then_some(())
    })
    .await;
    logged_reports(fleet).await
}

fn all(count: u64) -> Vec<u64> {
    (1..=count).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbox_keeps_its_events_and_reports_dropped_ones() {
    let fleet = Fleet::start().await;
    let limits = Limits { unconfirmed_bytes: 20_000, ..Limits::default() };
    let mut agent = join(&fleet, limits).await;
    agent.record_many(5);
    wait_until_logged(&fleet, &agent).await;
    fleet.nats.child().stop().await.unwrap();
    let mut dropped = 0;
    // It keeps dropping events, with the same error each time.
    while dropped < 20 {
        match agent.record() {
            Ok(()) => assert_eq!(dropped, 0, "recorded although it is full"),
            Err(RecordError::Full { limit: 20_000, .. }) => dropped += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let recorded = agent.recorded();
    assert!((30..200).contains(&recorded), "20 kB hold {recorded} events");
    // A restart keeps the stored events and the number of dropped ones.
    agent.stop();
    agent.start();
    fleet.nats.child().restart().await.unwrap();
    wait_until_logged(&fleet, &agent).await;
    let reports = wait::until("the loss to be declared", WAIT_TIMEOUT, || async {
        let reports = logged_reports(&fleet).await;
        (!losses(&reports).is_empty()).then_some(reports)
    })
    .await;
    assert_eq!(reports.len(), 1, "no new epoch is needed for it");
    let lost = losses(&reports);
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(lost[0]["cause"], "outbox_full");
    assert_eq!(lost[0]["missing_count"], dropped);
    agent.record_many(5);
    let reports = wait_until_logged(&fleet, &agent).await;
    assert_eq!(numbers(&reports), all(agent.recorded()));
    let device = fleet.api.get("/api/v1/devices/robot").await;
    assert_eq!(device["flags"]["loss_count"], 1, "{device}");
    assert_rebuild_equals_live(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_resent_after_the_stream_is_lost() {
    let fleet = Fleet::start().await;
    let mut agent = join(&fleet, Limits::default()).await;
    agent.record_many(50);
    wait_until_logged(&fleet, &agent).await;
    fleet.postgres.child().stop().await.unwrap();
    // These are in the stream, and not in the log.
    agent.record_many(50);
    tokio::time::sleep(Duration::from_secs(2)).await;
    delete_events_stream(&fleet).await;
    fleet.postgres.child().restart().await.unwrap();
    agent.record_many(50);
    let reports = wait_until_logged(&fleet, &agent).await;
    assert_eq!((reports.len(), numbers(&reports)), (1, all(150)));
    assert_eq!(losses(&reports), Vec::<Value>::new());
    assert_rebuild_equals_live(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_resent_after_the_log_is_restored_from_a_backup() {
    let mut fleet = Fleet::start().await;
    let mut agent = join(&fleet, Limits::default()).await;
    agent.record_many(40);
    wait_until_logged(&fleet, &agent).await;
    let dump = dump(&fleet);
    agent.record_many(40);
    wait_until_logged(&fleet, &agent).await;
    restore(&mut fleet, &dump).await;
    agent.record_many(40);
    let reports = wait_until_logged(&fleet, &agent).await;
    assert_eq!((reports.len(), numbers(&reports)), (1, all(120)));
    assert_eq!(losses(&reports), Vec::<Value>::new());
    // New config reaches the device, although the restored version of its config is lower.
    let vars = serde_json::json!({"vars": {"n": 1}});
    fleet.api.patch("/api/v1/devices/robot/config", &vars).await;
    assert_rebuild_equals_live(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_lost_by_the_log_and_pruned_by_the_device_are_declared() {
    let mut fleet = Fleet::start().await;
    let limits = Limits { kept_bytes: 4_000, ..Limits::default() };
    let mut agent = join(&fleet, limits).await;
    agent.record_many(10);
    wait_until_logged(&fleet, &agent).await;
    let dump = dump(&fleet);
    agent.record_many(100);
    wait_until_logged(&fleet, &agent).await;
    // Opening the outbox prunes it, without waiting for the hourly run.
    agent.stop();
    agent.start();
    wait::until("the outbox to be pruned", WAIT_TIMEOUT, || async {
        (agent.kept_bytes() <= 4_000).then_some(())
    })
    .await;
    // Without its deletion, the stream would complete the log again.
    delete_events_stream(&fleet).await;
    restore(&mut fleet, &dump).await;
    agent.record_many(10);
    let reports = wait_until_logged(&fleet, &agent).await;
    assert_eq!(reports.len(), 2, "a new epoch");
    let lost = losses(&reports);
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(lost[0]["cause"], "pruned");
    let numbers = numbers(&reports);
    let gap = lost[0]["missing_count"].as_u64().unwrap();
    assert!(gap > 50, "{lost:?}");
    let first = numbers[10];
    let expected: Vec<u64> = (1..=10).chain(first..=agent.recorded()).collect();
    assert_eq!(numbers, expected, "what it still has comes again, once");
    // The lost events may include other ones of the agent: at least as many as the numbers show.
    assert!(gap >= first - 11, "{gap} declared, {} numbers missing", first - 11);
    assert_rebuild_equals_live(&fleet).await;
}

/// Time for which hellos are observed: longer than the agent waits for a log whose server does not
/// know whether it has read its stream.
const OBSERVED: Duration = Duration::from_secs(7);

/// The stream still holds what the restored log and the agent lack: nothing is lost, however long
/// ingest takes to read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_log_that_has_not_read_its_stream_yet_has_lost_nothing() {
    let mut fleet = Fleet::start().await;
    let limits = Limits { kept_bytes: 4_000, ..Limits::default() };
    let mut agent = join(&fleet, limits).await;
    agent.record_many(10);
    wait_until_logged(&fleet, &agent).await;
    let dump = dump(&fleet);
    agent.record_many(100);
    wait_until_logged(&fleet, &agent).await;
    for role in [&mut fleet.ingest, &mut fleet.command, &mut fleet.query] {
        role.kill9();
    }
    restore_database(&fleet, &dump);
    // Opening the outbox prunes it, and a new connection sends a hello.
    agent.stop();
    agent.start();
    wait::until("the outbox to be pruned", WAIT_TIMEOUT, || async {
        (agent.kept_bytes() <= 4_000).then_some(())
    })
    .await;
    fleet.command.restart();
    let first =
        wait::until("a welcome", WAIT_TIMEOUT, || async { agent.status().last_hello }).await;
    wait::until("later welcomes", WAIT_TIMEOUT, || async {
        let newest = agent.status().last_hello?;
        let observed = newest.micros() - first.micros();
        (i128::from(observed) > OBSERVED.as_micros().cast_signed()).then_some(())
    })
    .await;
    fleet.ingest.restart();
    fleet.query.restart();
    fleet.wait_until_ready().await;
    agent.record_many(10);
    let reports = wait_until_logged(&fleet, &agent).await;
    assert_eq!((reports.len(), numbers(&reports)), (1, all(120)));
    assert_eq!(losses(&reports), Vec::<Value>::new());
    assert_rebuild_equals_live(&fleet).await;
}

/// An ingest that is killed after an append and before the ack leaves its device waiting: the next
/// one acks again.
#[tokio::test(flavor = "multi_thread")]
async fn an_ack_that_ingest_did_not_send_before_it_was_killed_is_sent_by_the_next_one() {
    let mut fleet = Fleet::start().await;
    let token = fleet.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&fleet.api, &fleet.ca(), &token, "robot").await;
    device.chain.record_many(1);
    device.sync(WAIT_TIMEOUT).await;
    fleet.ingest.kill9();
    // The consumer's state is as if the process had been killed before it acknowledged the message.
    let stream = jetstream::new(fleet.broker().await).get_stream(EVENTS_STREAM).await.unwrap();
    let stored = subjects::stored_events(&device.chain.project, device.chain.device);
    let message = stream.get_last_raw_message_by_subject(&stored).await.unwrap();
    let partition = subjects::stored_partition(&message.subject).unwrap();
    let name = subjects::events_consumer(partition);
    stream.delete_consumer(&name).await.unwrap();
    let unacknowledged = pull::Config {
        durable_name: Some(name),
        filter_subject: subjects::events_partition(partition),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: message.sequence },
        ack_policy: AckPolicy::All,
        ..Default::default()
    };
    stream.create_consumer(unacknowledged).await.unwrap();
    let mut acks = device.nats.subscribe(device.subjects.acks()).await.unwrap();
    device.nats.flush().await.unwrap();
    fleet.ingest.restart();
    // One announces the log's position to every device, the other repeats the missing one.
    for _ in 0..2 {
        let message = tokio::time::timeout(WAIT_TIMEOUT, acks.next()).await.unwrap().unwrap();
        let ack: Ack = codec::decode(&message.payload).unwrap();
        assert_eq!(ack.seq, device.committed());
    }
}

/// Duration of an outage: longer than what retry intervals that double without a low limit would
/// tolerate.
const OUTAGE: Duration = Duration::from_secs(35);
/// Maximum time from the servers' return until the device's events are in the log. The guarantee is
/// 10 s, doubled for a loaded machine.
const RESUME_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn events_resume_quickly_after_a_long_outage_of_all_servers() {
    let mut fleet = Fleet::start().await;
    let mut agent = join(&fleet, Limits::default()).await;
    agent.record_many(5);
    wait_until_logged(&fleet, &agent).await;
    for role in [&mut fleet.ingest, &mut fleet.command] {
        role.kill9();
    }
    fleet.nats.child().stop().await.unwrap();
    fleet.postgres.child().stop().await.unwrap();
    agent.record_many(5);
    tokio::time::sleep(OUTAGE).await;
    fleet.postgres.child().restart().await.unwrap();
    fleet.nats.child().restart().await.unwrap();
    for role in [&mut fleet.ingest, &mut fleet.command] {
        role.restart();
    }
    fleet.wait_until_ready().await;
    let back = std::time::Instant::now();
    let reports = wait_until_logged(&fleet, &agent).await;
    let took = back.elapsed();
    eprintln!("the events were in the log {took:.1?} after the servers were back");
    assert_eq!(numbers(&reports), all(10));
    assert!(took < RESUME_TIMEOUT, "{took:?}");
}
