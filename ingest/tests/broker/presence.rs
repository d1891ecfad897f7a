//! Presence is correct and timely, with any number of connections, and for silent devices.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use muster_eventlog::{EventLog, ReadFilter};
use muster_ingest::presence::{self, PresenceOptions};
use muster_schemas::events::DisconnectReason;
use muster_schemas::{DeviceId, Event, ProjectId};
use serde_json::json;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::support::{Backing, send};

/// Sweep interval that allows only the first sweep in a test.
const NEVER: Duration = Duration::from_secs(3600);

/// Starts a presence tracker; it stops when the guard is dropped.
async fn start_tracker(
    backing: &Backing,
    choose: impl FnOnce(&mut PresenceOptions),
) -> tokio_util::sync::DropGuard {
    let (connected, reconnected) = tokio::sync::watch::channel(0);
    let (log, system) = (backing.log.clone(), backing.system().await);
    let mut options = PresenceOptions::new(log, system, reconnected, backing.account());
    choose(&mut options);
    let stop = CancellationToken::new();
    let running = presence::run(options, stop.clone());
    tokio::spawn(async move {
        running.await;
        drop(connected);
    });
    stop.drop_guard()
}

/// Every presence event in the log, in order: the device, and the reason of a disconnect.
async fn history(log: &EventLog) -> Vec<(DeviceId, Option<DisconnectReason>)> {
    let mut found = Vec::new();
    let mut filter = ReadFilter::default();
    loop {
        let page = log.read(&ProjectId::default_project(), &filter, 1000).await.unwrap();
        let Some(last) = page.last() else { return found };
        filter.after = last.position;
        for stored in page {
            let muster_schemas::StreamName::DevicePresence(device) = stored.stream else {
                continue;
            };
            found.push(match stored.event().unwrap() {
                Event::DeviceConnected(_) => (device, None),
                Event::DeviceDisconnected(disconnected) => (device, Some(disconnected.reason)),
                other => panic!("{} among presence", other.kind()),
            });
        }
    }
}

/// Waits until the newest presence event of a device is `expected`; returns the elapsed time.
async fn wait_for_presence(
    log: &EventLog,
    device: DeviceId,
    expected: Option<DisconnectReason>,
) -> Duration {
    let started_at = Instant::now();
    loop {
        let newest = history(log).await.into_iter().rev().find(|(who, _)| *who == device);
        if newest == Some((device, expected)) {
            return started_at.elapsed();
        }
        assert!(
            started_at.elapsed() < Duration::from_secs(20),
            "{expected:?} never came: {newest:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn advisories_alone_report_connects_and_disconnects_in_time() {
    let backing = Backing::start(json!({})).await;
    let _tracker = start_tracker(&backing, |options| options.sweep_interval = NEVER).await;
    let credentials = backing.device(1);
    // The tracker runs when it has reported the first device.
    let first = credentials.connect(backing.nats.port()).await;
    wait_for_presence(&backing.log, credentials.device, None).await;
    drop(first);
    wait_for_presence(&backing.log, credentials.device, Some(DisconnectReason::Closed)).await;
    let (mut online, mut offline) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..10 {
        let connection = credentials.connect(backing.nats.port()).await;
        online = online.max(wait_for_presence(&backing.log, credentials.device, None).await);
        drop(connection);
        let closed = Some(DisconnectReason::Closed);
        offline = offline.max(wait_for_presence(&backing.log, credentials.device, closed).await);
    }
    eprintln!("of 10, the slowest: online after {online:?}, offline after {offline:?}");
    assert!(online < Duration::from_secs(1) && offline < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_answers_no_ping_ends_with_reason_silent() {
    let backing = Backing::start(json!({ "ping_interval": "1s", "ping_max": 1 })).await;
    let _tracker = start_tracker(&backing, |options| options.sweep_interval = NEVER).await;
    let credentials = backing.device(1);
    let _frozen = credentials.connect(backing.nats.port()).await;
    wait_for_presence(&backing.log, credentials.device, None).await;
    let took =
        wait_for_presence(&backing.log, credentials.device, Some(DisconnectReason::Silent)).await;
    eprintln!("silent after {took:?} at a ping each second");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_offline_until_it_sends_something() {
    let backing = Backing::start(json!({ "ping_interval": "2m" })).await;
    let _tracker = start_tracker(&backing, |options| {
        options.offline_after = Duration::from_secs(2);
        options.sweep_interval = Duration::from_millis(200);
    })
    .await;
    let (quiet, lively) = (backing.device(1), backing.device(2));
    let mut frozen = quiet.connect(backing.nats.port()).await;
    let mut talks = lively.connect(backing.nats.port()).await;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            send(&mut talks, "PUB x 1\r\n.\r\n").await;
        }
    });
    wait_for_presence(&backing.log, quiet.device, None).await;
    let took = wait_for_presence(&backing.log, quiet.device, Some(DisconnectReason::Silent)).await;
    eprintln!("silent after {took:?} of 2 s");
    assert!(took > Duration::from_millis(1500));
    // The broker's list does not show a ping; it shows a message or a subscription.
    send(&mut frozen, "PING\r\n").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(history(&backing.log).await.len(), 3);
    send(&mut frozen, "SUB y 1\r\n").await;
    let took = wait_for_presence(&backing.log, quiet.device, None).await;
    eprintln!("online again {took:?} after it spoke");
    wait_for_presence(&backing.log, quiet.device, Some(DisconnectReason::Silent)).await;
    drop(frozen);
    let of_lively: Vec<_> =
        history(&backing.log).await.into_iter().filter(|(who, _)| *who == lively.device).collect();
    assert_eq!(of_lively, [(lively.device, None)]);
}

/// Connects in the order of the devices, so that a lost page would be a lost device.
async fn crowd(backing: &Backing, devices: u128, each: usize) -> Vec<BufReader<TcpStream>> {
    let mut connections = Vec::new();
    for n in 0..devices {
        let credentials = backing.device(n);
        let made = (0..each).map(|_| credentials.connect(backing.nats.port()));
        connections.extend(futures::future::join_all(made).await);
    }
    connections
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_number_of_connections_sets_no_device_offline() {
    const DEVICES: usize = 90;
    const EACH: usize = 50;
    let backing = Backing::start(json!({ "ping_interval": "2m" })).await;
    let mut connections = crowd(&backing, DEVICES as u128, EACH).await;
    // One page, and five pages, while clients connect and disconnect.
    for page in [20_000, 1_000] {
        let tracker = start_tracker(&backing, |options| {
            options.sweep_interval = Duration::from_millis(200);
            options.page_size = page;
        })
        .await;
        let started_at = Instant::now();
        while started_at.elapsed() < Duration::from_secs(4) {
            let replaced =
                connections.len() - 1 - (started_at.elapsed().as_millis() as usize * 7) % 4000;
            // The new connection is of the same device, which is therefore never gone.
            let credentials = backing.device((replaced / EACH) as u128);
            connections[replaced] = credentials.connect(backing.nats.port()).await;
        }
        drop(tracker);
        // The tracker releases its lease.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let mut events: HashMap<DeviceId, usize> = HashMap::new();
    for (device, went) in history(&backing.log).await {
        assert_eq!(went, None, "{device} was declared gone");
        *events.entry(device).or_default() += 1;
    }
    assert_eq!(events.len(), DEVICES);
    assert!(events.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_a_killed_broker_are_offline_unless_they_reconnect() {
    let backing = Backing::start(json!({})).await;
    let (stays, goes) = (backing.device(1), backing.device(2));
    let _tracker =
        start_tracker(&backing, |options| options.sweep_interval = Duration::from_millis(300))
            .await;
    let _first =
        (stays.connect(backing.nats.port()).await, goes.connect(backing.nats.port()).await);
    wait_for_presence(&backing.log, stays.device, None).await;
    wait_for_presence(&backing.log, goes.device, None).await;
    let pid = backing.nats.child().pid();
    backing.nats.child().kill9().unwrap();
    while backing.nats.child().pid() == pid
        || TcpStream::connect(("127.0.0.1", backing.nats.port())).await.is_err()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _second = stays.connect(backing.nats.port()).await;
    wait_for_presence(&backing.log, goes.device, Some(DisconnectReason::Gone)).await;
    let of_stays: Vec<_> =
        history(&backing.log).await.into_iter().filter(|(who, _)| *who == stays.device).collect();
    assert_eq!(of_stays, [(stays.device, None)]);
}
