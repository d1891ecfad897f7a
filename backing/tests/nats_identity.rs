//! Tests of a nats-server in operator mode and with TLS: only clients with a valid JWT are
//! accepted.
#![allow(clippy::needless_pass_by_value, reason = "helpers that are easy to call")]
#![cfg(test)]

use std::fs;
use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use muster_backing::nats::{Identity, NatsOptions, NatsServer, Preload, Tls, Websocket};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let claims = json!({ "jti": subject.public_key(), "iat": 1_700_000_000, "iss": issuer.public_key(),
        "name": "test", "sub": subject.public_key(), "nats": nats });
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed =
        format!("{}.{}", encode(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), encode(&claims));
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&issuer.sign(signed.as_bytes()).unwrap()))
}

fn account_jwt(operator: &KeyPair, account: &KeyPair, storage: i64) -> String {
    let limits = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage });
    jwt(operator, account, json!({ "type": "account", "version": 2, "limits": limits }))
}

/// Connects with or without a JWT; returns the server's response.
async fn connect(port: u16, user: Option<(&KeyPair, &str)>) -> String {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let info: Value = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
    let mut hello = json!({ "verbose": false, "pedantic": false });
    if let Some((key, jwt)) = user {
        hello["jwt"] = json!(jwt);
        let nonce = info["nonce"].as_str().unwrap();
        hello["sig"] = json!(BASE64URL_NOPAD.encode(&key.sign(nonce.as_bytes()).unwrap()));
    }
    stream.get_mut().write_all(format!("CONNECT {hello}\r\nPING\r\n").as_bytes()).await.unwrap();
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn in_operator_mode_only_a_jwt_grants_access_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let [operator, system, account, user] = [
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_account(),
        KeyPair::new_user(),
    ];
    let mut options = NatsOptions::new(dir.path());
    options.identity = Some(Identity {
        operator: jwt(&operator, &operator, json!({ "type": "operator", "version": 2 })),
        system_account: system.public_key(),
        preload: vec![
            Preload { account: system.public_key(), jwt: account_jwt(&operator, &system, 0) },
            Preload { account: account.public_key(), jwt: account_jwt(&operator, &account, -1) },
        ],
    });
    let nats = NatsServer::start(options).await.unwrap();
    let limits = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let credential = jwt(&account, &user, limits.clone());
    let foreign = jwt(&KeyPair::new_account(), &user, limits);
    for round in ["first start", "after a restart"] {
        assert_eq!(connect(nats.port(), Some((&user, &credential))).await, "PONG\r\n", "{round}");
        assert!(
            connect(nats.port(), Some((&user, &foreign))).await.contains("Authorization Violation"),
            "{round}"
        );
        assert!(connect(nats.port(), None).await.contains("Authorization Violation"), "{round}");
        nats.child().stop().await.unwrap();
        nats.child().restart().await.unwrap();
    }
    nats.stop().await.unwrap();
}

fn certificate(dir: &Path) -> Tls {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let tls =
        Tls { certificate: dir.join("certificate.pem"), key: dir.join("key.pem"), client_ca: None };
    fs::write(&tls.certificate, made.cert.pem()).unwrap();
    fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    tls
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_every_listener_requires_tls_and_survives_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = NatsOptions::new(dir.path());
    options.tls = Some(certificate(dir.path()));
    options.websocket = Some(Websocket::default());
    let nats = NatsServer::start(options).await.unwrap();
    assert!(nats.url().starts_with("tls://127.0.0.1:"));
    assert!(nats.websocket_url().unwrap().starts_with("wss://127.0.0.1:"));
    let pid = nats.child().pid();
    nats.reload().unwrap();
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", nats.port())).await.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert!(line.contains("\"tls_required\":true"), "{line}");
    assert_eq!(nats.child().pid(), pid);
    drop(stream); // A server that is stopping waits for handshakes in progress.
    nats.stop().await.unwrap();
}
