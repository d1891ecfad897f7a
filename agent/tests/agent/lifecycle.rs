//! Tests of an agent with a real broker: enrolling, reporting, losing its server and reconnecting.

use std::time::{Duration, Instant};

use muster_agent::doctor::examine;
use muster_agent::enroll::{EnrollError, enroll};
use muster_agent::status::{Status, query_status};
use muster_agent::store::{Folder, Store, key};
use muster_agent::{Agent, AgentError, AgentOptions};
use muster_schemas::cose::Kind;
use muster_schemas::metrics::MetricBatch;
use muster_schemas::names::{ConfigValue, ConfigVars};
use muster_schemas::wire::ConfigUpdate;
use muster_schemas::{ConfigVersion, Epoch, Event, ProjectId, Timestamp, codec};
use serde::Serialize;

use crate::running::Running;
use crate::support::{self, Server, device, operation_key};

/// Returns the number of rounds of samples in these batches: each has a distinct time.
fn rounds(batches: &[MetricBatch]) -> usize {
    let times = batches.iter().flat_map(|batch| {
        batch.points.iter().map(|point| batch.time.plus_micros(point.offset).micros())
    });
    times.collect::<std::collections::BTreeSet<_>>().len()
}

fn config_versions(events: &[Event]) -> Vec<u64> {
    let versions = events.iter().filter_map(|event| match event {
        Event::DeviceConfigApplied(event) => Some(event.version.get()),
        _ => None,
    });
    versions.collect()
}

#[tokio::test]
async fn a_device_enrolls_once_and_repeats_the_request_after_a_lost_response() {
    let server = Server::start().await;
    let data = server.path("device");
    let options = server.enroll_options(&data);
    assert!(matches!(
        Agent::open(AgentOptions::new(&data)).err(),
        Some(AgentError::NotEnrolled { .. })
    ));

    let mut foreign = options.clone();
    foreign.token.pin = muster_schemas::Hash::of(b"another CA");
    let error = enroll(foreign).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap_or(&error);
    let message = source.to_string();
    assert!(message.contains(&muster_schemas::Hash::of(b"another CA").to_string()), "{message}");

    server.state.lock().unwrap().loses_response = true;
    let error = enroll(options.clone()).await.unwrap_err();
    let message = std::error::Error::source(&error).unwrap_or(&error).to_string();
    assert!(message.contains("Bad gateway: the answer was lost"), "{message}");

    let enrolled = enroll(options.clone()).await.unwrap();
    assert_eq!(enrolled.identity.device, support::device());
    let nonces = server.state.lock().unwrap().nonces.clone();
    assert_eq!(nonces[0], nonces[1]);

    let error = enroll(options.clone()).await.unwrap_err();
    assert!(matches!(error, EnrollError::AlreadyEnrolled { .. }));
    assert!(error.to_string().contains("--force"), "{error}");

    let mut forced = options;
    forced.force = true;
    let error = enroll(forced.clone()).await.unwrap_err();
    let message = std::error::Error::source(&error).unwrap_or(&error).to_string();
    assert!(message.contains("Token used up"), "{message}");
    let kept = std::fs::read_dir(&data).unwrap().flatten();
    let kept = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("agent-before"));
    assert_eq!(kept.count(), 1, "the state of before is kept");
}

#[tokio::test]
async fn secrets_that_cannot_be_opened_are_requested_again() {
    let server = Server::start().await;
    server.state.lock().unwrap().config = (ConfigVersion(4), ConfigVars::new());
    let running = Running::start(&server).await;
    server.until("the first config", |state| config_versions(&state.events) == [4]).await;
    let hellos = {
        let mut state = server.state.lock().unwrap();
        state.config =
            (ConfigVersion(9), [("greeting".parse().unwrap(), ConfigValue::Int(1))].into());
        state.hellos
    };
    let update = ConfigUpdate {
        project: ProjectId::default_project(),
        device: device(),
        epoch: Epoch(1),
        version: ConfigVersion(8),
        vars: ConfigVars::new(),
        sealed_vars: Some(vec![7; 100]),
    };
    let update = operation_key().seal(Kind::Config, codec::encode(&update));
    server.command("config", update).await;
    server
        .until("the config of the welcome", |state| config_versions(&state.events) == [4, 9])
        .await;
    assert_eq!(server.state.lock().unwrap().hellos, hellos + 1);
    running.stop().await;
}

/// An earlier agent ignored sealed variables; its successor has them after its first welcome.
#[tokio::test]
async fn a_config_that_an_earlier_agent_applied_is_applied_again() {
    #[derive(Serialize)]
    struct EarlierConfig {
        version: u64,
        vars: ConfigVars,
        rejected: Vec<String>,
    }
    let server = Server::start().await;
    let greeting = [("greeting".parse().unwrap(), ConfigValue::Int(1))];
    server.state.lock().unwrap().config = (ConfigVersion(4), greeting.into());
    let running = Running::start(&server).await;
    server.until("the config", |state| config_versions(&state.events) == [4]).await;
    running.stop().await;
    {
        let store = Store::open(Folder::open(&server.path("device")).unwrap()).unwrap();
        let earlier = EarlierConfig { version: 4, vars: ConfigVars::new(), rejected: Vec::new() };
        store.put(key::CONFIG, &earlier).unwrap();
    }
    let running = Running::start(&server).await;
    server.until("the config again", |state| config_versions(&state.events) == [4, 4]).await;
    let json = std::fs::read_to_string(server.path("device").join("config.json")).unwrap();
    assert!(json.contains("greeting"), "{json}");
    running.stop().await;
    let running = Running::start(&server).await;
    running.record(5);
    server.until("once only", |state| config_versions(&state.events) == [4, 4, 5]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_device_reports_its_inventory_and_applies_its_config() {
    let server = Server::start().await;
    let interval = ("metrics.interval".parse().unwrap(), ConfigValue::Text("1s".to_owned()));
    let bad = ("metrics.groups".parse().unwrap(), ConfigValue::Text("gpu".into()));
    server.state.lock().unwrap().config = (ConfigVersion(4), [interval, bad].into());
    let running = Running::start(&server).await;
    server
        .until("the inventory is in the log", |state| {
            state.events.iter().any(|event| matches!(event, Event::DeviceInventoryReported(_)))
        })
        .await;
    server.until("the config is applied", |state| config_versions(&state.events) == [4]).await;
    for version in 100..150 {
        running.record(version);
    }
    server
        .until("all events are in the log", |state| config_versions(&state.events).len() == 51)
        .await;
    server.until("metrics come each second", |state| state.live.len() >= 4).await;
    {
        let state = server.state.lock().unwrap();
        assert_eq!(config_versions(&state.events)[1..], (100..150).collect::<Vec<_>>());
        let Some(Event::DeviceConfigApplied(applied)) =
            state.events.iter().find(|event| matches!(event, Event::DeviceConfigApplied(_)))
        else {
            panic!("no config was applied");
        };
        assert_eq!(applied.errors.keys().collect::<Vec<_>>(), ["metrics.groups"]);
        let names: Vec<&str> =
            state.live[3].points.iter().map(|point| point.measurement.as_str()).collect();
        for expected in ["cpu", "mem", "system", "muster_agent"] {
            assert!(names.contains(&expected), "{names:?}");
        }
    }
    let data = server.path("device");
    let json = std::fs::read_to_string(data.join("config.json")).unwrap();
    assert!(json.contains("\"version\":4"), "{json}");
    let status = query_status(&data).await.unwrap().unwrap();
    assert!(status.is_running && status.broker.is_some() && status.last_ack.is_some());
    assert!(status.clock_skew_us.is_some_and(|skew| skew.abs() < 1_000_000), "{status:?}");
    assert_eq!(status.outbox.unconfirmed, 0, "{status:?}");
    running.stop().await;
    assert_eq!(query_status(&data).await.unwrap(), None);

    // Without a change, the inventory is not reported again.
    let before = server.state.lock().unwrap().events.len();
    let running = Running::start(&server).await;
    running.record(200);
    server
        .until("the new event is there", |state| {
            config_versions(&state.events).last() == Some(&200)
        })
        .await;
    assert_eq!(server.state.lock().unwrap().events.len(), before + 1);
    running.stop().await;
}

#[tokio::test]
async fn events_during_a_broker_outage_are_sent_later() {
    let server = Server::start().await;
    let interval = ("metrics.interval".parse().unwrap(), ConfigValue::Text("1s".to_owned()));
    server.state.lock().unwrap().config = (ConfigVersion(1), [interval].into());
    let running = Running::start(&server).await;
    server.until("the device is up", |state| !state.live.is_empty() && state.hellos > 0).await;
    server.nats.child().stop().await.unwrap();
    for version in 10..30 {
        running.record(version);
    }
    for _ in 0..200 {
        if running.agent.status().backlog.batches >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let kept = running.agent.status();
    assert!(kept.backlog.batches >= 2 && kept.outbox.unconfirmed >= 20, "{kept:?}");
    assert!(kept.broker.is_none() && kept.last_error.is_some(), "{kept:?}");
    server.nats.child().restart().await.unwrap();
    server.until("the events are there", |state| config_versions(&state.events).len() == 21).await;
    let expected = usize::try_from(kept.backlog.batches).unwrap();
    server.until("the metrics are there", |state| rounds(&state.backfilled) >= expected).await;
    assert!(server.state.lock().unwrap().backfilled.len() < expected, "they came together");
    assert_eq!(
        config_versions(&server.state.lock().unwrap().events)[1..],
        (10..30).collect::<Vec<_>>()
    );
    running.stop().await;
}

#[tokio::test]
async fn a_lost_stream_loses_no_event() {
    let server = Server::start().await;
    let running = Running::start(&server).await;
    server.until("the device is up", |state| state.hellos > 0 && !state.events.is_empty()).await;
    server.state.lock().unwrap().ignores_events = true;
    for version in 0..20 {
        running.record(version);
    }
    let jetstream = async_nats::jetstream::new(server.client().await);
    jetstream.delete_stream("EVENTS").await.unwrap();
    jetstream.delete_stream("METRICS").await.unwrap();
    for version in 20..40 {
        running.record(version);
    }
    server.create_streams().await;
    server.state.lock().unwrap().ignores_events = false;
    server.until("the events are there", |state| config_versions(&state.events).len() >= 40).await;
    assert_eq!(config_versions(&server.state.lock().unwrap().events), (0..40).collect::<Vec<_>>());
    running.stop().await;
}

/// Makes the stream METRICS refuse messages beyond this number.
async fn set_max_messages(server: &Server, max_messages: i64) {
    let jetstream = async_nats::jetstream::new(server.client().await);
    let mut stream = jetstream.get_stream("METRICS").await.unwrap();
    let config = stream.info().await.unwrap().config.clone();
    let config = async_nats::jetstream::stream::Config {
        discard: async_nats::jetstream::stream::DiscardPolicy::New,
        max_messages,
        ..config
    };
    jetstream.update_stream(config).await.unwrap();
}

#[tokio::test]
async fn metrics_rejected_by_a_full_stream_are_kept_and_sent_later() {
    let server = Server::start().await;
    let interval = ("metrics.interval".parse().unwrap(), ConfigValue::Text("1s".to_owned()));
    server.state.lock().unwrap().config = (ConfigVersion(1), [interval].into());
    let running = Running::start(&server).await;
    server.until("the device is up", |state| !state.live.is_empty() && state.hellos > 0).await;
    set_max_messages(&server, 1).await;
    let started_at = Instant::now();
    while running.agent.status().backlog.batches < 10 {
        assert!(started_at.elapsed() < Duration::from_secs(30), "{:?}", running.agent.status());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let kept = usize::try_from(running.agent.status().backlog.batches).unwrap();
    // Every attempt is counted here, whether or not the stream accepts it.
    let tried = server.state.lock().unwrap().backfilled.len();
    eprintln!("{kept} batches are kept, {tried} tries in {:?}", started_at.elapsed());
    assert!((1..=10).contains(&tried), "{tried} tries");
    set_max_messages(&server, -1).await;
    server.until("the metrics are there", |state| rounds(&state.backfilled) >= kept).await;
    let started_at = Instant::now();
    while running.agent.status().backlog.batches > 0 {
        assert!(started_at.elapsed() < Duration::from_secs(30), "{:?}", running.agent.status());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn credentials_are_renewed_before_they_expire_without_losing_the_connection() {
    let server = Server::start().await;
    server.state.lock().unwrap().credentials_lifetime = 4_000_000;
    let running = Running::start(&server).await;
    server
        .until("they were renewed twice", |state| state.credentials >= 2 && state.hellos >= 3)
        .await;
    running.record(1);
    server.until("events go on", |state| config_versions(&state.events) == [1]).await;
    running.stop().await;
}

#[tokio::test]
async fn the_doctor_reports_problems_with_remedies() {
    let (server, other) = (Server::start().await, Server::start().await);
    let running = Running::start(&server).await;
    server.until("the device is up", |state| state.hellos > 0).await;
    let data = server.path("device");
    let well = query_status(&data).await.unwrap().unwrap();
    let checks = examine(&data, Ok(well.clone())).await;
    assert!(checks.iter().all(muster_agent::doctor::Check::is_ok), "{checks:?}");

    let other_ca = std::fs::read_to_string(other.path("ca.pem")).unwrap();
    let with = |change: &dyn Fn(&mut Status)| {
        let mut status = well.clone();
        change(&mut status);
        status
    };
    for (status, name, named) in [
        (with(&|it| it.url = "https://nowhere.invalid/".into()), "server", "resolv.conf"),
        (with(&|it| it.url = "https://127.0.0.1:1/".into()), "server", "port 1"),
        (with(&|it| it.ca = other_ca.clone()), "TLS", "CA"),
        (with(&|it| it.ca = "x".into()), "TLS", "--force"),
        (with(&|it| it.brokers = vec!["tls://127.0.0.1:1".into()]), "broker", "port 1"),
        (with(&|it| it.credentials_until = Some(Timestamp(1))), "credentials", "muster-agent"),
        (with(&|it| it.broker = None), "agent", ""),
        (with(&|it| it.outbox.dropped = 1), "outbox", ""),
    ] {
        let checks = examine(&data, Ok(status)).await;
        let remedy = checks.iter().filter(|check| check.name == name).find_map(|check| {
            let remedy = check.remedy.clone()?;
            remedy.contains(named).then_some(remedy)
        });
        assert!(remedy.is_some(), "{name} with '{named}' in {checks:?}");
    }
    running.stop().await;
}
