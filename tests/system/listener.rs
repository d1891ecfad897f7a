//! The HTTPS listener with slow and faulty clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use muster_backing::postgres::Tuning;
use muster_tests::fleet::Fleet;
use muster_tests::{System, wait};
use reqwest::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

type Connection = StreamOwned<ClientConnection, TcpStream>;

fn connect(system: &System) -> Connection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(system.ca()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let address = system.api.url.trim_start_matches("https://").to_owned();
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(tls, tcp)
}

/// Reads the head of the next response, and its body by its length.
fn read_response(connection: &mut Connection) -> (String, String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    connection.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_reaches_a_client_that_is_still_sending_its_body() {
    let system = System::start().await;
    let token = system.api.token.clone();
    let mut connection = connect(&system);
    // Refused because of the token, the parameters, the path; and a route that does not read the
    // body.
    for (path, token, status) in [
        ("/api/v1/devices", "mst_wrong", "401"),
        ("/api/v1/devices?nonsense=1", &token, "400"),
        ("/api/v1/nowhere", &token, "404"),
        ("/api/v1/operations/0198c0de-7000-7abc-8def-0123456789ab/pause", &token, "404"),
    ] {
        let body = format!("{{\"name\": \"{}\"}}", "a".repeat(20_000));
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all(head.as_bytes()).unwrap();
        connection.flush().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        for part in body.as_bytes().chunks(4_000) {
            connection.write_all(part).unwrap();
            connection.flush().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        let (head, body) = read_response(&mut connection);
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{path}: {head}{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_contains_the_client_address_of_proxied_requests() {
    let trusted = [("MUSTER_TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8")];
    let fleet = Fleet::start_with(Tuning::Small, &trusted).await;
    // One route is handled by query, the other one is forwarded to command.
    let routes =
        ["/api/v1/devices", "/api/v1/operations/0198c0de-7000-7abc-8def-0123456789ab/pause"];
    for (at, (forwarded_for, client)) in [
        ("", "127.0.0.1"),
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.66, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
    ]
    .into_iter()
    .enumerate()
    {
        for (route, method) in routes.into_iter().zip([Method::GET, Method::POST]) {
            let body = json!({"name": format!("{method} {at}"), "role": "operator"});
            let made = fleet.api.post("/api/v1/tokens", &body).await;
            let user = fleet.api.with_token(made["secret"].as_str().unwrap());
            let headers = [("x-forwarded-for", forwarded_for)];
            let sent = if forwarded_for.is_empty() { &headers[..0] } else { &headers[..] };
            let (status, response) = user.send_with(method.clone(), route, &json!({}), sent).await;
            assert!(matches!(status, 200 | 404), "{response}");
            let id = made["id"].as_str().unwrap();
            let used = wait::until("the use to be in the log", Duration::from_secs(30), || async {
                let used: Vec<Value> = fleet.api.list("/api/v1/events?type=ApiTokenUsed").await;
                used.into_iter().find(|event| event["stream"].as_str().unwrap().contains(id))
            })
            .await;
            assert_eq!(
                used["data"]["client_address"], client,
                "{method} {route} of '{forwarded_for}'"
            );
        }
    }
}

/// The status of a request with an unmodified target.
fn raw_status(system: &System, method: &str, target: &str) -> String {
    let mut connection = connect(system);
    let request =
        format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    connection.flush().unwrap();
    let mut head = [0; 12];
    connection.read_exact(&mut head).unwrap();
    String::from_utf8_lossy(&head).trim_start_matches("HTTP/1.1 ").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_requests_of_unauthenticated_clients_are_rejected() {
    let system = System::start().await;
    for target in [
        "/api/v1/x/../device/nonce",
        "/api/v1/x/%2e%2E/device/nonce",
        "/api/v1/x\\..\\device/nonce",
    ] {
        assert_eq!(raw_status(&system, "POST", target), "400", "{target}");
    }
    assert_eq!(raw_status(&system, "OPTIONS", "*"), "204");
    // Unknown methods share one label.
    for number in 0..50 {
        raw_status(&system, &format!("BREW{number}"), "/api/v1/devices");
    }
    let (status, text) = system.api.send(Method::GET, "/metrics", None).await;
    let text = text.as_str().unwrap();
    assert_eq!(status, 200);
    assert!(!text.contains("BREW") && text.contains("method=\"other\""), "{text:.3000}");

    // A project's token gives no access to server-wide data.
    let body = json!({"name": "viewer", "role": "viewer"});
    let made = system.api.post("/api/v1/tokens?project=default", &body).await;
    let viewer = system.api.with_token(made["secret"].as_str().unwrap());
    assert_eq!(viewer.status("/metrics").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_works_on_ipv6_alone_and_on_all_addresses() {
    for (listen, reached) in [("[::1]", &["[::1]"][..]), ("[::]", &["[::1]", "127.0.0.1"])] {
        let system = System::start_with(&["--no-agent", "--listen", listen]).await;
        assert!(system.api.url.starts_with("https://[::1]:"), "{}", system.api.url);
        let port = system.api.url.rsplit(':').next().unwrap();
        for host in reached {
            let url = format!("https://{host}:{port}");
            let api = muster_tests::Api::new(&url, "", &system.ca());
            assert_eq!(api.status("/healthz").await, 200, "{url}");
            assert_eq!(api.status("/readyz").await, 200, "{url}");
        }
        let (code, _, err) = system.muster(&["status"]);
        assert_eq!(code, 0, "{err}");
        let health = std::process::Command::new(muster_tests::binaries::binary("muster"))
            .arg("health")
            .env("MUSTER_LISTEN", format!("{listen}:{port}"))
            .env("MUSTER_KEYS", system.dir().join("keys"))
            .output()
            .unwrap();
        assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stderr));
        let data = system.dir().display().to_string();
        let (_, checks, _) = system.muster(&["doctor", "--data", &data]);
        assert!(checks.contains("ok   API"), "{checks}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_are_compressed_and_revalidated_and_long_requests_are_refused() {
    let system = System::start().await;
    let api = &system.api;
    for number in 0..20 {
        api.post("/api/v1/devices", &json!({"name": format!("robot-{number}")})).await;
    }
    let path = "/api/v1/devices?search=robot-";
    let all = wait::until("all devices", Duration::from_secs(20), || async {
        let (status, headers, body) = api.raw(path, &[]).await;
        let found: Value = serde_json::from_slice(&body).unwrap();
        let is_complete = found["items"].as_array().is_some_and(|items| items.len() == 20);
        (status == 200 && is_complete).then_some((headers, body))
    })
    .await;
    let (headers, plain) = all;
    assert!(headers.get("content-encoding").is_none());
    let tag = headers["etag"].to_str().unwrap().to_owned();
    for encoding in ["gzip", "zstd"] {
        let (_, headers, body) = api.raw(path, &[("accept-encoding", encoding)]).await;
        assert_eq!(headers["content-encoding"], encoding);
        assert!(body.len() * 3 < plain.len(), "{encoding}: {} of {}", body.len(), plain.len());
        assert!(headers["vary"].to_str().unwrap().contains("accept-encoding"));
        let compressed = headers["etag"].to_str().unwrap().to_owned();
        assert_ne!(compressed, tag);
        for known in [&compressed, &tag] {
            let (status, _, body) = api.raw(path, &[("if-none-match", known)]).await;
            assert_eq!((status, body.len()), (304, 0), "{known}");
        }
    }
    api.patch("/api/v1/devices/robot-7", &json!({"labels": {"env": "prod"}})).await;
    wait::until("the change to be visible", Duration::from_secs(20), || async {
        (api.raw(path, &[("if-none-match", &tag)]).await.0 == 200).then_some(())
    })
    .await;

    let long = format!("/api/v1/devices?search={}", "x".repeat(40_000));
    let (status, _, body) = api.raw(&long, &[]).await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["type"]), (414, &"/problems/uri-too-long".into()));
    let header = "x".repeat(90_000);
    let (status, _, body) = api.raw(path, &[("x-long", &header)]).await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["type"]), (431, &"/problems/headers-too-large".into()));
    // The type of a problem is the path of a page, for which no token is needed.
    let (status, headers, page) =
        api.with_token("").raw(problem["type"].as_str().unwrap(), &[]).await;
    assert_eq!(
        (status, headers["content-type"].to_str().unwrap()),
        (200, "text/html; charset=utf-8")
    );
    assert!(String::from_utf8(page).unwrap().contains("64 KiB"));
    assert_eq!(api.with_token("").raw("/", &[]).await.0, 200);
}
