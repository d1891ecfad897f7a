//! Limits of the HTTPS listener: idle connections, slow clients, and tokens with too many streams.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use muster_tests::text::has_line;
use muster_tests::{Api, System, wait};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

fn address(system: &System) -> SocketAddr {
    let port = system.api.url.rsplit(':').next().unwrap().parse().unwrap();
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Opens a TCP connection from a loopback address, 127.0.0.`host`.
async fn connect(system: &System, host: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
    timeout(WAIT_TIMEOUT, socket.connect(address(system))).await.unwrap().unwrap()
}

/// Whether the server has closed a connection.
fn is_closed(connection: &TcpStream) -> bool {
    match connection.try_read(&mut [0; 16]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// The value of a metric; 0 when it is missing.
async fn metric(api: &Api, line: &str) -> u64 {
    let (_, text) = api.send(Method::GET, "/metrics", None).await;
    let text = text.as_str().unwrap_or_default().to_owned();
    let found = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_default()
}

/// A client of the listener from a loopback address, with separate connections.
fn client(system: &System, host: u8) -> reqwest::Client {
    let pem = std::fs::read(system.ca()).unwrap();
    reqwest::Client::builder()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).unwrap())
        .local_address(IpAddr::from([127, 0, 0, host]))
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_keep_an_operator_from_revoking_a_key() {
    muster_backing::file_limit::raise().unwrap();
    // The usual limit of open files: 768 of them are for connections, 384 for those of one address.
    let system = System::start_with_files(&["--no-agent"], 1_024).await;
    for (round, hosts) in [[2; 11], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]].into_iter().enumerate() {
        let body = json!({"name": format!("stolen {round}"), "role": "operator"});
        let stolen = system.api.post("/api/v1/tokens", &body).await;
        let thief = system.api.with_token(stolen["secret"].as_str().unwrap());
        assert_eq!(thief.status("/api/v1/devices").await, 200);

        let mut idle = Vec::new();
        for _ in 0..100 {
            idle.extend(join_all(hosts.map(|host| connect(&system, host))).await);
        }
        assert_eq!(idle.len(), 1_100);
        let started_at = Instant::now();
        // An operator with a new connection, also from the hostile address.
        for host in [1, 2] {
            let operator = client(&system, host);
            let url = format!("{}/api/v1/devices", system.api.url);
            let response = operator.get(&url).bearer_auth(&system.api.token).send().await.unwrap();
            assert_eq!(response.status(), 200);
        }
        let path = format!("/api/v1/tokens/{}", stolen["id"].as_str().unwrap());
        let (status, response) = system.api.send(Method::DELETE, &path, None).await;
        assert_eq!(status, 200, "{response}");
        wait::until("the token to be refused", WAIT_TIMEOUT, || async {
            (thief.status("/api/v1/devices").await == 401).then_some(())
        })
        .await;
        assert!(started_at.elapsed() < Duration::from_secs(8), "{:?}", started_at.elapsed());
        let open = idle.iter().filter(|connection| !is_closed(connection)).count();
        assert!(open <= if round == 0 { 384 } else { 768 }, "{open}");
        assert!(open > 100, "the rest is let be until its timeout: {open}");
    }
    let closed = metric(&system.api, "muster_connections_closed_total{cause=\"pressure\"} ").await;
    assert!(closed >= 1_100 - 384 + 1_100 - 768, "{closed}");
    // The handshake timeout closes all of them.
    wait::until("the idle connections to end", WAIT_TIMEOUT, || async {
        (metric(&system.api, "muster_connections ").await < 20).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_limit_applies_per_address() {
    let system = System::start_with(&["--no-agent", "--connections-per-address", "10"]).await;
    let url = format!("{}/healthz", system.api.url);
    let clients: Vec<reqwest::Client> = (0..15).map(|_| client(&system, 2)).collect();
    // Connections without a request in flight are closed in favor of new ones.
    for client in &clients {
        assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    }
    // Those with a request in flight are not.
    let stream = format!("{}/api/v1/events/stream", system.api.url);
    let mut streams = Vec::new();
    for client in &clients {
        let sent = client.get(&stream).bearer_auth(&system.api.token).send().await;
        streams.extend(sent.ok().filter(|response| response.status() == 200));
    }
    assert_eq!(streams.len(), 10);
    assert_eq!(client(&system, 3).get(&url).send().await.unwrap().status(), 200);
    let rejected =
        metric(&system.api, "muster_connections_refused_total{limit=\"address\"} ").await;
    assert!(rejected >= 5, "{rejected}");
    let is_address_limit = |fields: &Value| fields["limit"] == "address";
    assert!(has_line(
        &system.output(),
        "WARN",
        "muster_server::serve::connections",
        is_address_limit
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_headers_too_slowly_is_disconnected() {
    let system = System::start().await;
    let pem = std::fs::read(system.ca()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::pem::PemObject;
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let config =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let tls = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let tcp = std::net::TcpStream::connect(address(&system)).unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut stream = rustls::StreamOwned::new(tls, tcp);
        let started_at = Instant::now();
        let head = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
        let slow = head.iter().copied().chain(std::iter::repeat(b'a'));
        for byte in slow {
            let sent = stream.write_all(&[byte]).and_then(|()| stream.flush());
            if sent.is_err() || started_at.elapsed() > Duration::from_secs(40) {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        started_at.elapsed()
    });
    let ended = ended.await.unwrap();
    assert!(ended < Duration::from_secs(25), "{ended:?}");
    // A connection that never completes its handshake is closed sooner.
    let mut silent = connect(&system, 2).await;
    silent.write_all(&[22]).await.unwrap();
    let read = timeout(Duration::from_secs(15), silent.read(&mut [0; 16])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_viewer_cannot_take_the_live_streams_of_others() {
    let system = System::start_with(&["--no-agent", "--streams-per-token", "30"]).await;
    let viewer = async |name: &str| -> Api {
        let made =
            system.api.post("/api/v1/tokens", &json!({"name": name, "role": "viewer"})).await;
        system.api.with_token(made["secret"].as_str().unwrap())
    };
    let (hostile, other) = (viewer("hostile").await, viewer("other").await);
    let url = format!("{}/api/v1/events/stream", system.api.url);
    let http = client(&system, 1);
    let open = |api: &Api| {
        let request = http.get(&url).bearer_auth(&api.token);
        async { request.send().await.unwrap() }
    };
    let mut taken = Vec::new();
    for _ in 0..30 {
        let stream = open(&hostile).await;
        assert_eq!(stream.status(), 200);
        taken.push(stream);
    }
    for _ in 0..50 {
        let response = open(&hostile).await;
        assert_eq!(response.status(), 429);
        assert!(response.headers().contains_key("retry-after"));
        let problem: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!(problem["type"], "/problems/too-many-streams");
    }
    assert_eq!(open(&other).await.status(), 200);
    let name = "muster_live_streams_refused_total{limit=\"token\"} ";
    assert_eq!(metric(&system.api, name).await, 50);
    // The end of a stream allows another one.
    drop(taken.pop());
    wait::until("a free stream", WAIT_TIMEOUT, || async {
        (open(&hostile).await.status() == 200).then_some(())
    })
    .await;
}
