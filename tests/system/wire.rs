//! The published protocol with the real agent and the real servers: every message between them
//! while a device enrolls, works, loses its broker and reconnects matches the CDDL.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum_server::tls_rustls::RustlsConfig;
use cddl_cat::cbor::validate_cbor;
use cddl_cat::context::BasicContext;
use cddl_cat::flatten::flatten_from_str;
use ciborium::Value;
use data_encoding::BASE64URL_NOPAD;
use futures::StreamExt;
use muster_schemas::{DeviceEnvelope, codec, compress};
use muster_tests::agent::AgentProcess;
use muster_tests::binaries::binary;
use muster_tests::fleet::Fleet;
use muster_tests::wait;
use serde_json::json;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The rules, the matched ones, and violations.
struct Language {
    rules: BasicContext,
    matched: Mutex<BTreeSet<String>>,
    broken: Mutex<Vec<String>>,
}

impl Language {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/cddl");
        let text: Vec<_> = ["terms", "events", "wire"]
            .iter()
            .map(|file| fs::read_to_string(folder.join(format!("{file}.cddl"))).unwrap())
            .collect();
        let rules = BasicContext::new(flatten_from_str(&text.concat()).unwrap());
        Self { rules, matched: Mutex::default(), broken: Mutex::default() }
    }

    fn check(&self, rule: &str, bytes: &[u8]) {
        let follows = || {
            let whole = match compress::is_compressed(bytes) {
                true => compress::decompress(bytes, 4 << 20).ok_or("it does not inflate")?,
                false => bytes.to_vec(),
            };
            let value = match codec::decode(&whole).map_err(|error| error.to_string())? {
                // The validator does not support the tag of a COSE_Sign1.
                Value::Tag(18, inner) => *inner,
                value => value,
            };
            let rule = self.rules.rules.get(rule).ok_or("there is no such rule")?;
            validate_cbor(rule, &value, &self.rules).map_err(|error| error.to_string())
        };
        match follows() {
            Ok(()) => drop(lock(&self.matched).insert(rule.to_owned())),
            Err(error) => lock(&self.broken).push(format!("{rule}: {error}")),
        }
    }

    /// Checks a message on the broker.
    fn check_message(&self, subject: &str, bytes: &[u8]) {
        let what = muster_schemas::subjects::parse(subject).map_or("reply", |(_, _, what)| what);
        match what {
            "evt" => {
                self.check("SealedEvent", bytes);
                if let Ok(envelope) = DeviceEnvelope::from_sealed(bytes) {
                    self.check(&envelope.kind, &envelope.data);
                }
            }
            "req.hello" => self.check("SealedHello", bytes),
            "cmd" => self.check("SealedConfigUpdate", bytes),
            "ack" => self.check("Ack", bytes),
            // Responses of JetStream itself are JSON.
            "reply" if bytes.first() == Some(&b'{') => {}
            // The server is not ready to respond to a hello.
            "reply" if bytes.is_empty() => {}
            "reply" => self.check("SealedWelcome", bytes),
            what if what.starts_with("met.") => {
                self.check("MetricBatch", bytes);
                if what == "met.backfill" {
                    lock(&self.matched).insert(what.to_owned());
                }
            }
            // Only headers; published by the broker.
            what if what.starts_with("stored.") && bytes.is_empty() => {
                lock(&self.matched).insert("stored".to_owned());
            }
            other => lock(&self.broken).push(format!("nobody knows a subject {other}")),
        }
    }

    /// Checks a request to the listener.
    fn check_request(&self, path: &str, body: &[u8]) {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let sealed = |field: &str| {
            body[field]
                .as_str()
                .map(|text| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap_or_default())
        };
        let proofs = match path {
            "/api/v1/device/enroll" => {
                vec![("SealedEnrollProof", "request"), ("SealedContinueProof", "previous")]
            }
            "/api/v1/device/credentials" => vec![("SealedCredentialsProof", "request")],
            _ => vec![],
        };
        for (rule, field) in proofs {
            if let Some(bytes) = sealed(field) {
                self.check(rule, &bytes);
            }
        }
    }
}

/// Waits until each of these rules was matched; panics on a violation.
async fn wait_for_matches(language: &Language, rules: &[&str]) {
    let started_at = Instant::now();
    loop {
        assert_eq!(*lock(&language.broken), Vec::<String>::new());
        let mut missing = rules.to_vec();
        missing.retain(|rule| !lock(&language.matched).contains(*rule));
        if missing.is_empty() {
            return;
        }
        assert!(started_at.elapsed() < WAIT_TIMEOUT, "never on the wire: {missing:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn lock<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
struct CheckingProxy {
    language: Arc<Language>,
    listener: muster_tests::Api,
}

/// Forwards a request to the listener, like a reverse proxy, and checks it.
async fn forward(State(listener): State<CheckingProxy>, request: Request) -> impl IntoResponse {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    listener.language.check_request(parts.uri.path(), &body);
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let response =
        listener.listener.try_send(parts.method, &parts.uri.to_string(), Some(&body)).await;
    let (status, response) = response.unwrap_or((502, serde_json::Value::Null));
    (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), axum::Json(response))
}

/// Starts a proxy in front of the listener; returns its port.
async fn start_checking_proxy(fleet: &Fleet, language: &Arc<Language>) -> u16 {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let now = std::time::SystemTime::now().into();
    let files =
        fleet.keys().certificates(muster_command::keys::Listener::Https, &names, now).unwrap();
    let tls = RustlsConfig::from_pem_file(&files.chain, &files.key).await.unwrap();
    let listener =
        CheckingProxy { language: Arc::clone(language), listener: fleet.api.with_token("") };
    let routes = axum::Router::new().fallback(forward).with_state(listener);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let port = socket.local_addr().unwrap().port();
    let server = axum_server::from_tcp_rustls(socket, tls).unwrap();
    tokio::spawn(server.serve(routes.into_make_service()));
    port
}

/// Checks all messages on the broker.
async fn check_broker_messages(fleet: &Fleet, language: &Arc<Language>) {
    let broker = fleet.broker().await;
    for subjects in ["muster.>", "_INBOX.muster.>"] {
        let mut messages = broker.subscribe(subjects).await.unwrap();
        let language = Arc::clone(language);
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                language.check_message(&message.subject, &message.payload);
            }
        });
    }
    wait::flush(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_on_the_wire_conforms_to_the_cddl() {
    let fleet = Fleet::start().await;
    let language = Arc::new(Language::read());
    let port = start_checking_proxy(&fleet, &language).await;
    check_broker_messages(&fleet, &language).await;

    let token = fleet.api.enrollment_token(2).await;
    let url = format!("https://127.0.0.1:{port}");
    let mut agent = AgentProcess::enroll(fleet.dir(), &url, &token, "robot");
    // A repeated enrollment with proof of the old key; and a start with another URL, so that the
    // agent requests credentials.
    let again = std::process::Command::new(binary("muster-agent"))
        .arg("--data")
        .arg(&agent.data)
        .args(["enroll", "--force", "--url", &url, "--label", "site=a"])
        .env("MUSTER_ENROLL_TOKEN", &token)
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    agent.start_with(&["--url", &format!("https://localhost:{port}")]);

    let vars = json!({"vars": {"metrics.interval": "1s", "n": 1, "ratio": 0.5, "on": true}});
    fleet.api.patch("/api/v1/devices/robot/config", &vars).await;
    let online = [
        "SealedEnrollProof",
        "SealedContinueProof",
        "SealedCredentialsProof",
        "SealedHello",
        "SealedWelcome",
        "SealedEvent",
        "DeviceInventoryReported",
        "DeviceConfigApplied",
        "Ack",
        "stored",
        "MetricBatch",
    ];
    wait_for_matches(&language, &online).await;
    fleet.api.patch("/api/v1/devices/robot/config", &json!({"vars": {"n": 2}})).await;
    wait_for_matches(&language, &["SealedConfigUpdate"]).await;

    // Offline during some samples, which are sent later.
    fleet.nats.child().stop().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    fleet.nats.child().restart().await.unwrap();
    wait_for_matches(&language, &["met.backfill"]).await;
}
