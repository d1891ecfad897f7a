//! The broker: a hostile device gains nothing with reply subjects and headers, messages contain no
//! plaintext of programs, and updates of accounts lose no subscription.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, Message};
use bytes::Bytes;
use futures::StreamExt;
use muster_command::keys::KeyStore;
use muster_schemas::Timestamp;
use muster_schemas::subjects::{DEVICE_PUBLISHES, EVENTS_STREAM, METRICS_STREAM};
use muster_tests::fleet::Fleet;
use muster_tests::{SimDevice, wait};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Headers that JetStream or the broker interpret.
fn headers(victim: &str) -> Vec<(&'static str, String)> {
    let own = |text: &str| text.to_owned();
    vec![
        ("Nats-Trace-Dest", format!("{victim}.cmd")),
        ("Nats-Trace-Only", own("true")),
        ("Nats-Msg-Id", own("1")),
        ("Nats-Rollup", own("all")),
        ("Nats-Rollup", own("sub")),
        ("Nats-TTL", own("1s")),
        ("Nats-Incr", own("1")),
        ("Nats-Expected-Stream", own(METRICS_STREAM)),
        ("Nats-Expected-Last-Sequence", own("1")),
        ("Nats-Expected-Last-Subject-Sequence-Subject", format!("{victim}.evt")),
        ("Nats-Batch-Id", own("b")),
        ("Nats-Batch-Sequence", own("1")),
        ("Nats-Batch-Commit", own("1")),
        ("Nats-Schedule", own("@every 1s")),
        ("Nats-Schedule-Target", format!("{victim}.cmd")),
        ("Nats-Marker-Reason", own("MaxAge")),
        ("Nats-Stream", own(EVENTS_STREAM)),
        ("Nats-Sequence", own("1")),
        ("Nats-Subject", format!("{victim}.cmd")),
        ("Status", own("503")),
        ("Muster-Kind", own("run")),
        ("Muster-Message-Id", own("1")),
    ]
}

fn replies(victim: &str) -> Vec<String> {
    let mut replies: Vec<String> =
        ["cmd", "ack", "evt", "met.live.host", "stored.evt", "req.hello"]
            .iter()
            .chain(&["req.output", "ch.1.up", "ch.1.down"])
            .map(|what| format!("{victim}.{what}"))
            .collect();
    replies.push(format!("_INBOX.{victim}.x"));
    for api in [
        "STREAM.PURGE.METRICS",
        "STREAM.DELETE.EVENTS",
        "STREAM.CREATE.X",
        "STREAM.MSG.GET.EVENTS",
        "CONSUMER.CREATE.EVENTS",
        "CONSUMER.MSG.NEXT.METRICS.metrics",
        "DIRECT.GET.EVENTS",
    ] {
        replies.push(format!("$JS.API.{api}"));
    }
    for other in [
        "$JS.ACK.EVENTS.evt-0.1.1.1.1.1",
        "$JS.FC.x",
        "$JSC.R.x",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.CLAIMS.UPDATE",
        "$KV.x.y",
        "$O.x",
        "_R_.x",
        "_GR_.x",
        "$GNR.x",
        "evt.0.default.x",
        "met.0.default.x.live.host",
        "muster.query.targets",
        ">",
        "*",
    ] {
        replies.push(other.to_owned());
    }
    replies
}

type ObservedMessages = Arc<Mutex<Vec<Message>>>;

/// Collects all messages on these subjects.
async fn observe(client: async_nats::Client, subjects: &[String]) -> ObservedMessages {
    let seen = ObservedMessages::default();
    for subject in subjects {
        let mut messages = client.subscribe(subject.clone()).await.unwrap();
        let (seen, context) = (Arc::clone(&seen), jetstream::new(client.clone()));
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                seen.lock().unwrap().push(Message { message, context: context.clone() });
            }
        });
    }
    client.flush().await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn reply_subjects_and_headers_of_a_device_have_no_effect_on_others() {
    let fleet = Fleet::start().await;
    let token = fleet.api.enrollment_token(3).await;
    fleet.api.post("/api/v1/projects", &serde_json::json!({"id": "other"})).await;
    let mut hostile = SimDevice::join(&fleet.api, &fleet.ca(), &token, "hostile").await;
    let victim = SimDevice::join(&fleet.api, &fleet.ca(), &token, "victim").await;
    let mut witness = SimDevice::join(&fleet.api, &fleet.ca(), &token, "witness").await;

    let prefix = format!("muster.default.{}", victim.id());
    let own: Vec<String> = ["cmd", "ack", "stored.>", "ch.*.down"]
        .iter()
        .map(|what| format!("{prefix}.{what}"))
        .chain([format!("_INBOX.{prefix}.>")])
        .collect();
    let at_victim = observe(victim.nats.clone(), &own).await;
    let at_server = observe(fleet.broker().await, &[">".to_owned()]).await;
    let streams = jetstream::new(fleet.broker().await);
    let stored = async |name: &str| {
        streams.get_stream(name).await.unwrap().cached_info().state.last_sequence
    };

    // Every combination: each subject that a device may publish to, with each reply subject and
    // each header.
    let body = Bytes::from_static(b"hostile");
    let mut sent = 0_u64;
    for what in DEVICE_PUBLISHES {
        let subject = format!("muster.default.{}.{}", hostile.id(), what.replace('*', "1"));
        for reply in replies(&prefix) {
            hostile.nats.publish_with_reply(subject.clone(), reply, body.clone()).await.unwrap();
            sent += u64::from(what == "evt");
        }
        for (name, value) in headers(&prefix) {
            let mut map = HeaderMap::new();
            map.insert(name, value.as_str());
            let client = &hostile.nats;
            client.publish_with_headers(subject.clone(), map, body.clone()).await.unwrap();
        }
    }
    hostile.nats.flush().await.unwrap();
    wait::until("the hostile messages in the stream", WAIT_TIMEOUT, || async {
        (stored(EVENTS_STREAM).await >= sent / 2).then_some(())
    })
    .await;

    // Both devices still work, and their events arrive.
    hostile.chain.record_many(1);
    hostile.sync(WAIT_TIMEOUT).await;
    witness.chain.record_many(20);
    witness.sync(WAIT_TIMEOUT).await;

    let received: Vec<String> =
        at_victim.lock().unwrap().iter().map(|message| format!("{message:?}")).collect();
    assert!(received.is_empty(), "{} of them: {:.2000}", received.len(), received.join("\n"));
    // JetStream sends no acknowledgment, to any reply subject.
    for message in at_server.lock().unwrap().iter() {
        let payload = String::from_utf8_lossy(&message.payload);
        let is_puback = payload.starts_with("{\"stream\":") && payload.contains("\"seq\":");
        assert!(!is_puback, "{}: {payload}", message.subject);
    }
    for name in [EVENTS_STREAM, METRICS_STREAM] {
        assert!(stored(name).await > 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_sees_no_plaintext_of_programs_files_or_secrets() {
    let fleet = Fleet::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut robot = fleet.robot(dir.path()).await;
    let file = dir.path().join("report.txt");
    std::fs::write(&file, "harrier").unwrap();
    let seen = observe(fleet.broker().await, &[">".to_owned()]).await;

    let run = async |action: serde_json::Value| {
        let body = json!({"target": {"kind": "devices", "devices": ["robot"]}, "action": action});
        let made = fleet.api.post("/api/v1/operations", &body).await;
        let path = format!("/api/v1/operations/{}/runs/robot", made["id"].as_str().unwrap());
        wait::until("the run to succeed", WAIT_TIMEOUT, || async {
            let run = fleet.api.send(Method::GET, &path, None).await.1;
            (run["status"] == "succeeded").then_some(())
        })
        .await;
        path
    };
    // The order itself is signed, not sealed: it does not contain the printed text.
    let action = json!({
        "kind": "shell", "env": {"BIRD": "kestrel"}, "stdin_base64": "b3NwcmV5",
        "command": "echo $BIRD; cat; printf 'fal%s' con; printf 'buz%s' zard >&2",
    });
    let path = run(action).await;
    let (_, _, out) = fleet.api.raw(&format!("{path}/output?stream=stdout"), &[]).await;
    assert_eq!(String::from_utf8_lossy(&out), "kestrel\nospreyfalcon");
    let path = run(json!({"kind": "upload", "path": file})).await;
    let stored = path.replace("operations", "uploads").replace("runs/", "");
    let (_, _, content) = fleet.api.raw(&format!("{stored}/content"), &[]).await;
    assert_eq!(String::from_utf8_lossy(&content), "harrier");

    // Secret config variables: sent to a connected device, and with the welcome.
    let set = async |name: &str, value: &str| {
        let mut vars = serde_json::Map::new();
        vars.insert(name.to_owned(), value.into());
        let body = serde_json::json!({ "vars": vars });
        fleet.api.patch("/api/v1/devices/robot/config", &body).await;
    };
    let config = robot.data.join("config.json");
    let applied = async |value: &str| {
        wait::until("the secret to arrive", WAIT_TIMEOUT, || async {
            std::fs::read_to_string(&config).ok()?.contains(value).then_some(())
        })
        .await;
    };
    set("secret.one", "merlin").await;
    applied("merlin").await;
    robot.kill9();
    set("secret.two", "peregrine").await;
    robot.start();
    applied("peregrine").await;
    assert!(std::fs::read_to_string(&config).unwrap().contains("merlin"));

    let markers = ["kestrel", "osprey", "falcon", "buzzard", "harrier", "merlin", "peregrine"];
    let is_shown = |bytes: &[u8]| {
        markers
            .into_iter()
            .find(|marker| bytes.windows(marker.len()).any(|window| window == marker.as_bytes()))
    };
    let mut pieces = 0;
    for message in seen.lock().unwrap().iter() {
        pieces += usize::from(message.subject.ends_with(".req.output"));
        let found = is_shown(format!("{:?}", message.headers).as_bytes());
        assert_eq!(is_shown(&message.payload).or(found), None, "{}", message.subject);
    }
    assert!(pieces >= 3, "{pieces} pieces of output were seen");
    // The broker does not store any of it in clear either.
    let mut files = vec![fleet.dir().join("nats")];
    let mut read = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(bytes) = std::fs::read(&path) {
            read += bytes.len();
            assert_eq!(is_shown(&bytes), None, "{}", path.display());
        }
    }
    assert!(read > 1000, "the broker's folder was not read");
}

/// nats-server connects subscriptions to another account by the imports that the account has at that
/// moment; while it applies new claims, it has none.
#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_made_during_an_update_of_an_account_receive_messages() {
    const SUBSCRIPTIONS: usize = 800;
    let fleet = Fleet::start().await;
    let token = fleet.api.enrollment_token(1).await;
    let device = SimDevice::join(&fleet.api, &fleet.ca(), &token, "device").await;
    let (server, system) = (fleet.broker().await, fleet.broker_system().await);
    let updates = Arc::new(AtomicU64::new(0));
    let keys = KeyStore::open(fleet.keys().dir()).unwrap();
    let count = Arc::clone(&updates);
    let updating = tokio::spawn(async move {
        let start: Timestamp = SystemTime::now().into();
        loop {
            // In whole seconds, like those of command.
            let second = i64::try_from(count.fetch_add(1, Ordering::Relaxed)).unwrap();
            let issued_at = Timestamp(start.micros() + second * 1_000_000);
            let claims = keys.device_account_jwt(&[], issued_at).unwrap();
            let reply = system.request("$SYS.REQ.CLAIMS.UPDATE", claims.into()).await.unwrap();
            let reply: Value = serde_json::from_slice(&reply.payload).unwrap();
            assert_eq!(reply["data"]["code"], 200, "{reply}");
        }
    });
    let receives = async |number: usize| {
        let subject = format!("muster.default.{}.ch.{number}.down", device.id());
        let mut messages = device.nats.subscribe(subject.clone()).await.unwrap();
        device.nats.flush().await.unwrap();
        for _ in 0..10 {
            server.publish(subject.clone(), Bytes::from_static(b"x")).await.unwrap();
            if timeout(Duration::from_millis(500), messages.next()).await.is_ok() {
                return true;
            }
        }
        false
    };
    let all = futures::stream::iter(0..SUBSCRIPTIONS).map(receives).buffer_unordered(8);
    let deaf = all.filter(|receives| std::future::ready(!receives)).count().await;
    assert_eq!(deaf, 0, "of {SUBSCRIPTIONS} subscriptions receive nothing");
    assert!(!updating.is_finished(), "the updates failed");
    updating.abort();
    let updates = updates.load(Ordering::Relaxed);
    assert!(updates >= 20, "the account was updated {updates} times only");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_updated_after_a_revocation_and_not_after_an_enrollment() {
    let fleet = Fleet::start().await;
    let mut updates =
        fleet.broker_system().await.subscribe("$SYS.REQ.CLAIMS.UPDATE").await.unwrap();
    let token = fleet.api.enrollment_token(3).await;
    for name in ["one", "two", "three"] {
        SimDevice::join(&fleet.api, &fleet.ca(), &token, name).await;
    }
    let early = timeout(Duration::from_secs(3), updates.next()).await;
    assert!(early.is_err(), "the accounts were updated although no key was revoked");
    fleet.api.send(Method::DELETE, "/api/v1/devices/one", None).await;
    let update = timeout(WAIT_TIMEOUT, updates.next()).await.expect("an update in time");
    assert!(update.is_some(), "the connection to the broker has ended");
}
