//! Tests of the event log with a real PostgreSQL: appends, conflicts, retries, follow, leases,
//! restore.

#![allow(clippy::too_many_lines, reason = "a test is a sequence of steps")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of the tests")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod devices;
mod shared_reads;
mod superseded;
mod support;
mod table;
mod tiles;

use std::collections::BTreeSet;
use std::time::Duration;

use muster_eventlog::merkle::Frontier;
use muster_eventlog::{
    Append, AppendError, Batch, ConnectOptions, DeadLetterSource, EventLog, Expected, Follower,
    NewDeadLetter, NewEvent, OffsetMove, ReadFilter, audit_authority,
};
use muster_schemas::authority::{AuthorityKey, AuthorityVerifier};
use muster_schemas::events::DeviceNameReserved;
use muster_schemas::{DeviceId, Event, Position, ProjectId, StreamName, StreamVersion, Timestamp};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use support::{Database, database};

fn name(text: &str) -> StreamName {
    StreamName::Name(text.parse().unwrap())
}

fn reserved(n: u128) -> NewEvent {
    let event: Event = DeviceNameReserved { device: DeviceId(Uuid::from_u128(n)) }.into();
    NewEvent::server(&event, Timestamp(n as i64))
}

fn append(stream: &str, expected: Expected, events: u128) -> Append {
    Append::by_actor("test").stream(name(stream), expected, (0..events).map(reserved).collect())
}

async fn all(log: &EventLog) -> Vec<muster_eventlog::StoredEvent> {
    let mut events = Vec::new();
    loop {
        let after = events
            .last()
            .map_or(Position::ZERO, |event: &muster_eventlog::StoredEvent| event.position);
        let filter = ReadFilter { after, ..ReadFilter::default() };
        let page = log.read(&ProjectId::default_project(), &filter, 500).await.unwrap();
        if page.is_empty() {
            return events;
        }
        events.extend(page);
    }
}

/// Asserts that positions and stream versions have no gaps, time never decreases, and the head's
/// root is the root over the rows.
async fn assert_consistent(log: &EventLog) {
    let project = ProjectId::default_project();
    let events = all(log).await;
    let mut frontier = Frontier::default();
    let mut versions = std::collections::HashMap::new();
    let mut time = Timestamp(i64::MIN);
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event.position, Position(index as u64 + 1));
        let version: &mut StreamVersion = versions.entry(event.stream.clone()).or_default();
        *version += 1;
        assert_eq!(event.stream_version, *version, "{}", event.stream);
        assert!(event.recorded_at >= time);
        time = event.recorded_at;
        frontier.push(event.leaf(&project));
    }
    let head = log.head(&project).await.unwrap().unwrap();
    assert_eq!((head.position, head.root), (Position(events.len() as u64), frontier.root()));
}

#[tokio::test]
async fn exactly_one_of_concurrent_appends_with_the_same_expected_version_succeeds() {
    let database = database().await;
    // Two logs are like two processes: each has its own appender.
    let logs = [database.open().await, database.open().await];
    let mut tasks = Vec::new();
    for n in 0..40_usize {
        let log = logs[n % 2].clone();
        tasks.push(tokio::spawn(async move {
            let mut won = Vec::new();
            for version in (0..10).map(StreamVersion) {
                let result = log
                    .append(
                        &ProjectId::default_project(),
                        append("a", Expected::Version(version), 1),
                    )
                    .await;
                match result {
                    Ok(_) => won.push(version),
                    Err(AppendError::Conflict { actual, .. }) => assert_ne!(actual, version),
                    Err(other) => panic!("{other}"),
                }
            }
            won
        }));
    }
    let mut won = Vec::new();
    for task in tasks {
        won.extend(task.await.unwrap());
    }
    let distinct: BTreeSet<_> = won.iter().collect();
    assert_eq!(distinct.len(), won.len(), "a version was won twice");
    assert_eq!(all(&logs[0]).await.len(), won.len());
    assert_consistent(&logs[0]).await;
}

#[tokio::test]
async fn concurrent_appenders_produce_a_consistent_log_without_gaps() {
    let database = database().await;
    let logs = [database.open().await, database.open().await, database.open().await];
    let mut tasks = Vec::new();
    for n in 0..60_usize {
        let log = logs[n % 3].clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..10 {
                let stream = format!("s{n}");
                log.append(&ProjectId::default_project(), append(&stream, Expected::Any, 3))
                    .await
                    .unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(all(&logs[0]).await.len(), 60 * 10 * 3);
    assert_consistent(&logs[0]).await;
}

#[tokio::test]
async fn a_retried_append_is_in_the_log_once() {
    let database = database().await;
    let log = database.open().await;
    let project = ProjectId::default_project();
    let once = Append {
        append_id: Some(Uuid::from_u128(5)),
        ..append("a", Expected::Version(StreamVersion::ZERO), 2)
    };
    let first = log.append(&project, once.clone()).await.unwrap();
    // From the same process, and from another one, as after a crash.
    assert_eq!(log.append(&project, once.clone()).await.unwrap(), first);
    assert_eq!(database.open().await.append(&project, once).await.unwrap(), first);
    assert_eq!(all(&log).await.len(), 2);
    assert_eq!(log.appended(&project, Uuid::from_u128(5)).await.unwrap(), Some(first));
}

#[tokio::test]
async fn a_reader_that_lost_its_lease_cannot_append() {
    let database = database().await;
    let log = database.open().await;
    let project = ProjectId::default_project();
    let life = Duration::from_millis(1);
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let old = log.acquire_lease("evt-1", one, life).await.unwrap().unwrap();
    assert_eq!(log.take_over_offset(&old).await.unwrap().sequence, 0);
    let batch = |fence, sequence| Batch {
        appends: vec![append("a", Expected::Any, 1)],
        offset: Some(OffsetMove { name: "evt-1".into(), incarnation: "x".into(), sequence, fence }),
    };
    log.append_batch(&project, batch(old.fence, 7)).await.unwrap()[0].as_ref().unwrap();

    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let new = loop {
        if let Some(lease) = log.acquire_lease("evt-1", two, Duration::from_secs(60)).await.unwrap()
        {
            break lease;
        }
        assert!(tokio::time::Instant::now() < deadline, "the lease never ran out");
    };
    let offset = log.take_over_offset(&new).await.unwrap();
    assert_eq!((offset.sequence, offset.incarnation.as_str()), (7, "x"));
    assert!(log.acquire_lease("evt-1", one, life).await.unwrap().is_none());
    let back = log.take_over_offset(&old).await;
    assert!(matches!(back, Err(AppendError::Fenced(_))), "{back:?}");
    let result = log.append_batch(&project, batch(old.fence, 9)).await;
    assert!(matches!(result, Err(AppendError::Fenced(_))), "{result:?}");
    log.append_batch(&project, batch(new.fence, 9)).await.unwrap()[0].as_ref().unwrap();
    assert_eq!(all(&log).await.len(), 2);
    assert_consistent(&log).await;
}

#[tokio::test]
async fn partitions_are_created_in_advance() {
    let database = database().await;
    let log = database.open_with_partitions_of(7).await;
    for _ in 0..40 {
        log.append(&ProjectId::default_project(), append("a", Expected::Any, 10)).await.unwrap();
    }
    assert_eq!(all(&log).await.len(), 400);
    assert_consistent(&log).await;
}

#[tokio::test]
async fn followers_are_notified_of_appends_and_of_time() {
    let database = database().await;
    let (log, other) = (database.open().await, database.open().await);
    let project = ProjectId::default_project();
    let stop = CancellationToken::new();
    let follower = Follower::start(&log, stop.clone());
    let mut times = Vec::new();
    for _ in 0..5 {
        let before = follower.head(&project);
        let appended = other.append(&project, append("a", Expected::Any, 1)).await.unwrap();
        let wait = follower.wait_beyond(&project, before.max(appended.last.previous()));
        let head = tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
        assert!(head >= appended.last);
        times.push(appended);
    }
    for at in &times {
        assert_eq!(log.position_at(&project, at.recorded_at).await.unwrap(), at.last);
        let before = Timestamp(at.recorded_at.micros() - 1);
        assert_eq!(log.position_at(&project, before).await.unwrap(), at.first.previous());
    }
    assert_eq!(log.position_at(&project, Timestamp(0)).await.unwrap(), Position::ZERO);
    stop.cancel();
}

#[tokio::test]
async fn many_processes_can_open_a_new_database_concurrently() {
    let database = database().await;
    let opened = (0..6).map(|_| database.open());
    for log in futures::future::join_all(opened).await {
        log.append(&ProjectId::default_project(), append("a", Expected::Any, 1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_database_that_a_newer_release_has_migrated_is_opened() {
    let database = database().await;
    database.open().await;
    database
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'newer', true, '', 0)",
        )
        .await;
    database.open().await;
}

#[tokio::test]
async fn an_error_for_a_missing_project_names_it() {
    let database = database().await;
    let log = database.open().await;
    let nowhere: ProjectId = "nowhere".parse().unwrap();
    let error = log.append(&nowhere, append("a", Expected::Any, 1)).await.unwrap_err();
    assert!(matches!(&error, AppendError::NoProject(name) if name == "nowhere"), "{error}");
    assert_eq!(log.head(&nowhere).await.unwrap(), None);
}

#[tokio::test]
async fn a_killed_connection_fails_only_its_own_append() {
    let database = database().await;
    let log = database.open().await;
    let project = ProjectId::default_project();
    log.append(&project, append("a", Expected::Any, 1)).await.unwrap();
    database.kill_connections().await;
    let mut tries = 0;
    let appended = loop {
        tries += 1;
        assert!(tries < 20, "the appender does not come back");
        match log.append(&project, append("a", Expected::Any, 1)).await {
            Ok(appended) => break appended,
            Err(AppendError::Store(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(appended.last, Position(2));
    assert_consistent(&log).await;
}

#[tokio::test]
async fn a_restored_dump_has_the_same_content() {
    let database: Database = database().await;
    let log = database.open().await;
    for n in 0..20 {
        let stream = format!("s{}", n % 3);
        log.append(&ProjectId::default_project(), append(&stream, Expected::Any, 5)).await.unwrap();
    }
    let restored = database.dump_and_restore().await;
    let copy = restored.open().await;
    assert_eq!(all(&copy).await, all(&log).await);
    assert_consistent(&copy).await;
    // Appends continue after the restore.
    copy.append(&ProjectId::default_project(), append("s0", Expected::Any, 1)).await.unwrap();
    assert_consistent(&copy).await;
}

#[tokio::test]
async fn a_hostile_device_s_dead_letters_are_limited_and_all_counted() {
    let database = database().await;
    let log = database.open().await;
    let dead_letter = |device: u128, content: String| NewDeadLetter {
        source: DeadLetterSource::Events,
        project: Some("default".into()),
        subject: format!("evt.3.default.{}", Uuid::from_u128(device)),
        cause: "bad_signature",
        detail: "no\0t good".into(),
        bytes: content.into_bytes(),
    };
    let mut batch: Vec<_> = (0..500).map(|n| dead_letter(1, format!("garbage {n}"))).collect();
    batch.push(dead_letter(2, "the same".into()));
    batch.push(dead_letter(2, "the same".into()));
    log.store_dead_letters(&batch).await.unwrap();
    log.store_dead_letters(&batch).await.unwrap();
    let kept = log.list_dead_letters(Some("default"), i64::MAX, 100).await.unwrap();
    let of = |n| kept.iter().filter(move |l| l.subject.ends_with(&Uuid::from_u128(n).to_string()));
    assert_eq!(of(1).count(), 21);
    assert_eq!(of(1).map(|dead_letter| dead_letter.seen).sum::<u64>(), 1000);
    assert_eq!(
        of(1).filter(|dead_letter| dead_letter.bytes.is_empty()).map(|l| l.seen).sum::<u64>(),
        980
    );
    assert_eq!(of(2).map(|dead_letter| dead_letter.seen).collect::<Vec<_>>(), [4]);
    assert_eq!(of(2).next().unwrap().detail, "no\u{fffd}t good");
}

#[tokio::test]
async fn an_event_appended_without_the_authority_key_is_not_authentic() {
    let database = database().await;
    let plain = database.open().await;
    let project = ProjectId::default_project();
    let key = AuthorityKey::from_seed(&[1; 32]);
    let verifier = AuthorityVerifier::from_secret_keys(std::slice::from_ref(&key));
    let log = plain.with_authority(key.clone(), verifier.clone());

    // Events from before there was a key are adopted once.
    plain.append(&project, append("old", Expected::Version(StreamVersion::ZERO), 3)).await.unwrap();
    let stored = plain.read_stream(&project, &name("old")).await.unwrap();
    assert!(!stored.iter().any(|event| log.is_authentic(&project, event)));
    assert!(stored.iter().all(|event| plain.is_authentic(&project, event)));
    assert_eq!(log.adopt_events(&key).await.unwrap(), 3);
    assert_eq!(log.adopt_events(&key).await.unwrap(), 0);

    log.append(&project, append("new", Expected::Version(StreamVersion::ZERO), 2)).await.unwrap();
    log.append(&project, append("new", Expected::Version(StreamVersion(2)), 1)).await.unwrap();
    for stream in ["old", "new"] {
        let stored = log.read_stream(&project, &name(stream)).await.unwrap();
        assert_eq!(log.authentic(&project, stored).await.len(), 3, "{stream}");
    }

    plain.append(&project, append("new", Expected::Version(StreamVersion(3)), 1)).await.unwrap();
    // A proof that was copied from another version.
    database
        .execute(
            "UPDATE events SET authority = (SELECT authority FROM events WHERE stream = 'name/new'
                 AND stream_version = 3) WHERE stream = 'name/new' AND stream_version = 4",
        )
        .await;
    plain.append(&project, append("new", Expected::Version(StreamVersion(4)), 1)).await.unwrap();
    let stored = log.read_stream(&project, &name("new")).await.unwrap();
    assert_eq!((stored.len(), log.authentic(&project, stored).await.len()), (5, 3));
    assert_consistent(&log).await;

    let connect = ConnectOptions { connections: 1, ..ConnectOptions::new(database.url()) };
    let public = verifier.public_half();
    let audit = audit_authority(&connect, &public, Duration::from_secs(60)).await.unwrap();
    assert_eq!((audit.verified, audit.refused, audit.is_complete), (8, 2, true));
    assert_eq!(audit.examples[0], ("default".into(), Position(7), "DeviceNameReserved".into()));
}
