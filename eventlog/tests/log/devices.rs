//! Keys, epochs and presence of devices in the log.

use std::time::Duration;

use muster_eventlog::{Append, AppendError, Expected, NewEvent, PRESENCE_LEASE, StreamAppend};
use muster_schemas::events::{DeviceConnected, DeviceDeleted, DeviceEnrolled, DeviceRegistered};
use muster_schemas::{
    DeviceId, Epoch, Event, Hash, ProjectId, Seq, SigningKey, StreamName, StreamVersion, Timestamp,
};
use uuid::Uuid;

use super::support::database;
use super::{assert_consistent, name, reserved};

fn enrolled(epoch: u64, key: &SigningKey) -> Event {
    DeviceEnrolled {
        epoch: Epoch(epoch),
        signing_key: key.public().to_cose_key(),
        fingerprint: key.thumbprint(),
        nats_key: "U".into(),
        token: None,
        hostname: None,
        machine: None,
        macs: Vec::new(),
    }
    .into()
}

#[tokio::test]
async fn enrollment_opens_an_epoch_and_deletion_closes_it() {
    let database = database().await;
    let log = database.open().await;
    let project = ProjectId::default_project();
    let device = DeviceId(Uuid::from_u128(1));
    let key = SigningKey::from_seed(&[1; 32]);
    let stream = StreamName::Device(device);
    let now = Timestamp(1);
    let registered: Event = DeviceRegistered {
        name: "robot-7".parse().unwrap(),
        labels: Default::default(),
        fingerprint: None,
    }
    .into();
    let events =
        vec![NewEvent::server(&registered, now), NewEvent::server(&enrolled(1, &key), now)];
    log.append(
        &project,
        Append::by_actor("test").stream(
            stream.clone(),
            Expected::Version(StreamVersion::ZERO),
            events,
        ),
    )
    .await
    .unwrap();
    let access = log.device_access(&project, &[device]).await.unwrap().remove(&device).unwrap();
    assert!(access.key(&key.thumbprint()).is_some());
    assert_eq!(
        access.epoch(Epoch(1)).map(|epoch| (epoch.seq, epoch.is_closed)),
        Some((Seq::ZERO, false))
    );

    let report = |version: u64, tip: Hash, after: Hash| {
        let mut append = Append::by_actor("device").stream(
            StreamName::DeviceReport(device, Epoch(1)),
            Expected::Tip { version: StreamVersion(version), tip },
            vec![reserved(1)],
        );
        append.streams[0].tip = Some(after);
        append
    };
    log.append(&project, report(0, Hash::ZERO, Hash::of(b"1"))).await.unwrap();
    log.append(&project, report(1, Hash::of(b"1"), Hash::of(b"2"))).await.unwrap();
    let result = log.append(&project, report(1, Hash::of(b"1"), Hash::of(b"x"))).await;
    assert!(
        matches!(result, Err(AppendError::Conflict { actual: StreamVersion(2), tip: Some(tip), .. }) if tip == Hash::of(b"2"))
    );

    // A second enrollment: new key and epoch; the previous ones are closed.
    let new_key = SigningKey::from_seed(&[2; 32]);
    let again = vec![NewEvent::server(&enrolled(2, &new_key), now)];
    log.append(
        &project,
        Append::by_actor("test").stream(stream.clone(), Expected::Version(StreamVersion(2)), again),
    )
    .await
    .unwrap();
    let access = log.device_access(&project, &[device]).await.unwrap().remove(&device).unwrap();
    assert!(access.key(&key.thumbprint()).is_none() && access.key(&new_key.thumbprint()).is_some());
    let result = log.append(&project, report(2, Hash::of(b"2"), Hash::of(b"3"))).await;
    assert!(matches!(result, Err(AppendError::Closed { .. })), "{result:?}");

    let deleted: Event = DeviceDeleted { name: "robot-7".parse().unwrap() }.into();
    let deletion = vec![NewEvent::server(&deleted, now)];
    log.append(
        &project,
        Append::by_actor("test").stream(
            stream.clone(),
            Expected::Version(StreamVersion(3)),
            deletion,
        ),
    )
    .await
    .unwrap();
    let access = log.device_access(&project, &[device]).await.unwrap().remove(&device).unwrap();
    assert!(access.keys.is_empty() && access.epochs.iter().all(|epoch| epoch.is_closed));

    let kinds: Vec<_> =
        log.read_stream(&project, &stream).await.unwrap().into_iter().map(|e| e.kind).collect();
    assert_eq!(kinds, ["DeviceRegistered", "DeviceEnrolled", "DeviceEnrolled", "DeviceDeleted"]);
    let of_types = async |kinds: &[&str]| -> Vec<String> {
        let streams = [stream.clone(), name("other")];
        let stored = log.read_streams(&project, &streams, kinds).await.unwrap();
        stored.into_iter().map(|event| event.kind).collect()
    };
    assert_eq!(of_types(&[]).await, kinds);
    assert_eq!(of_types(&["DeviceDeleted"]).await, ["DeviceDeleted"]);
    assert_consistent(&log).await;
}
#[tokio::test]
async fn a_device_is_known_to_be_offline_only_while_presence_is_tracked() {
    let database = database().await;
    let log = database.open().await;
    let (project, device) = (ProjectId::default_project(), DeviceId(Uuid::from_u128(7)));
    let holder = Uuid::new_v4();
    let is_offline = || log.is_known_offline(&project, device);
    assert!(!is_offline().await.unwrap(), "no process tracks presence");

    let life = Duration::from_secs(60);
    log.acquire_lease(PRESENCE_LEASE, holder, life).await.unwrap().unwrap();
    assert!(is_offline().await.unwrap(), "it never connected");

    let connected: Event =
        DeviceConnected { connection: "server/1".to_owned(), address: None }.into();
    for (version, tip, expected) in [(0, Hash::of(b"server/1"), false), (1, Hash::ZERO, true)] {
        let mut append = Append::by_actor("role:ingest");
        append.streams.push(StreamAppend {
            stream: StreamName::DevicePresence(device),
            expected: Expected::Version(StreamVersion(version)),
            events: vec![NewEvent::server(&connected, Timestamp(1))],
            tip: Some(tip),
        });
        log.append(&project, append).await.unwrap();
        assert_eq!(is_offline().await.unwrap(), expected);
    }
    log.release_lease(PRESENCE_LEASE, holder).await.unwrap();
    assert!(!is_offline().await.unwrap(), "no process would have recorded its return");
}
