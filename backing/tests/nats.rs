//! Tests with a real nats-server: connected to, killed, refused. Its users test the message
//! transport.
#![cfg(test)]

use std::fs;
use std::path::Path;

use muster_backing::child::{ChildError, ChildEvent, Restart};
use muster_backing::nats::{NatsError, NatsOptions, NatsServer, Websocket};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Sends one request in the plaintext protocol; returns the payload of its response.
async fn request(port: u16, subject: &str, payload: &str) -> Value {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    let hello = r#"CONNECT {"verbose":false,"pedantic":false,"headers":false}"#;
    let text = format!(
        "{hello}\r\nSUB answer 1\r\nPUB {subject} answer {}\r\n{payload}\r\n",
        payload.len()
    );
    stream.get_mut().write_all(text.as_bytes()).await.unwrap();
    loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "the connection was closed");
        if let Some(message) = line.strip_prefix("MSG ") {
            let mut bytes = vec![0; message.split_whitespace().last().unwrap().parse().unwrap()];
            stream.read_exact(&mut bytes).await.unwrap();
            return serde_json::from_slice(&bytes).unwrap();
        }
        assert!(!line.starts_with("-ERR"), "{line}");
    }
}

async fn messages(port: u16) -> Value {
    request(port, "$JS.API.STREAM.INFO.FACTS", "").await["state"]["messages"].clone()
}

fn options(dir: &Path) -> NatsOptions {
    NatsOptions { websocket: Some(Websocket::default()), ..NatsOptions::new(dir) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_restarts_on_its_ports_with_its_streams() {
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(options(dir.path())).await.unwrap();
    let ports = (nats.port(), nats.websocket_port());
    let stream = json!({ "name": "FACTS", "subjects": ["facts"], "storage": "file" });
    let made = request(nats.port(), "$JS.API.STREAM.CREATE.FACTS", &stream.to_string()).await;
    assert_eq!(made["config"]["name"], "FACTS", "{made}");
    let published = request(nats.port(), "facts", "one").await;
    assert_eq!(published["seq"], 1, "{published}");

    let mut events = nats.child().events();
    nats.child().kill9().unwrap();
    assert!(matches!(events.recv().await.unwrap(), ChildEvent::Exited { is_requested: false, .. }));
    assert!(matches!(events.recv().await.unwrap(), ChildEvent::Restarted { .. }));
    assert_eq!((nats.port(), nats.websocket_port()), ports);
    assert_eq!(messages(nats.port()).await, 1);
    TcpStream::connect(("127.0.0.1", nats.websocket_port().unwrap())).await.unwrap();
    nats.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_restart_policy_a_killed_server_stays_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(NatsOptions { restart: Restart::Never, ..options(dir.path()) })
        .await
        .unwrap();
    let mut events = nats.child().events();
    nats.child().kill9().unwrap();
    assert!(matches!(events.recv().await.unwrap(), ChildEvent::Exited { is_requested: false, .. }));
    assert!(TcpStream::connect(("127.0.0.1", nats.port())).await.is_err());
    nats.child().restart().await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", nats.port())).await.is_ok());
    nats.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_server_ends() {
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(options(dir.path())).await.unwrap();
    let mut events = nats.child().events();
    drop(nats);
    assert!(matches!(events.recv().await.unwrap(), ChildEvent::Exited { is_requested: true, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_taken_by_another_process_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(options(dir.path())).await.unwrap();
    let mut events = nats.child().events();
    nats.child().stop().await.unwrap();
    assert!(matches!(events.recv().await.unwrap(), ChildEvent::Exited { is_requested: true, .. }));
    let stranger = std::net::TcpListener::bind(("127.0.0.1", nats.port())).unwrap();
    let error = nats.child().restart().await.unwrap_err();
    assert!(matches!(error, ChildError::PortTaken { .. }), "{error}");
    drop(stranger);
    nats.child().restart().await.unwrap();
    nats.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_for_a_rejected_configuration_quotes_nats_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.extra.insert("no_such_setting".into(), json!(1));
    let error = NatsServer::start(options).await.unwrap_err();
    assert!(matches!(error, NatsError::Config { .. }), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("no_such_setting"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_left_by_a_killed_owner_is_stopped_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = NatsServer::start(options(dir.path())).await.unwrap();
    let pid = first.child().pid().unwrap();
    // The leftovers of a killed owner: the server, its pid file, and no lock.
    let pid_file = fs::read_to_string(dir.path().join("nats-server.pid")).unwrap();
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("nats-server.pid"), pid_file).unwrap();
    let mut events = first.child().events();
    let second = NatsServer::start(options(other.path())).await.unwrap();
    assert!(matches!(events.recv().await.unwrap(), ChildEvent::Exited { is_requested: false, .. }));
    assert_ne!(second.child().pid(), Some(pid));
    second.stop().await.unwrap();
    first.stop().await.unwrap();
}
