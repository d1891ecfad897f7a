//! The front door as slow and clumsy clients find it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use muster_tests::System;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

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

/// The head of the next answer, and its body by its length.
fn answer(connection: &mut Connection) -> (String, String) {
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
async fn an_answer_reaches_a_client_that_is_still_sending_its_body() {
    let system = System::start().await;
    let token = system.api.token.clone();
    let mut connection = connect(&system);
    // Refused for its token, for its parameters, for its path; taken although nobody reads the body.
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
        let (head, body) = answer(&mut connection);
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{path}: {head}{body}");
    }
}
