//! Tests with a real InfluxDB: created, written to, killed.
#![cfg(test)]

use muster_backing::child::ChildEvent;
use muster_backing::influx::{Auth, Credentials, Flavor, InfluxDb, InfluxError, InfluxOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends one request; returns the whole response.
async fn post(influx: &InfluxDb, path: &str, sign_in: bool, body: &str) -> String {
    let query = match influx.credentials() {
        Credentials::Password { user, password } if sign_in => format!("&u={user}&p={password}"),
        _ => String::new(),
    };
    let mut stream = TcpStream::connect(("127.0.0.1", influx.port())).await.unwrap();
    let head = "Host: localhost\r\nContent-Type: application/x-www-form-urlencoded";
    let text = format!(
        "POST {path}{query} HTTP/1.0\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

async fn count(influx: &InfluxDb, sign_in: bool) -> String {
    post(influx, "/query?db=muster", sign_in, "q=SELECT%20COUNT(usage)%20FROM%20cpu").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_restarts_with_its_points_and_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let influx = InfluxDb::start(InfluxOptions::new(dir.path())).await.unwrap();
    assert_eq!(
        influx.flavor(),
        Flavor::V1,
        "these tests want the InfluxDB that `make deps` installs"
    );
    let written = post(
        &influx,
        "/write?db=muster",
        true,
        "cpu,host=a usage=1 1000000000\ncpu,host=a usage=2 2000000000",
    )
    .await;
    assert!(written.starts_with("HTTP/1.0 204"), "{written}");
    let response = post(&influx, "/write?db=muster", false, "cpu usage=3").await;
    assert!(response.starts_with("HTTP/1.0 401"), "{response}");

    let mut events = influx.child().events();
    influx.child().kill9().unwrap();
    assert!(matches!(events.recv().await.unwrap(), ChildEvent::Exited { is_requested: false, .. }));
    assert!(matches!(events.recv().await.unwrap(), ChildEvent::Restarted { .. }));
    assert!(count(&influx, true).await.contains("[\"1970-01-01T00:00:00Z\",2]"));
    let credentials = influx.credentials().clone();
    influx.stop().await.unwrap();

    let again = InfluxDb::start(InfluxOptions::new(dir.path())).await.unwrap();
    assert!(again.credentials() == &credentials);
    assert!(count(&again, true).await.contains(",2]"));
    again.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_password_every_local_client_has_access() {
    let dir = tempfile::tempdir().unwrap();
    let influx =
        InfluxDb::start(InfluxOptions { auth: Auth::Open, ..InfluxOptions::new(dir.path()) })
            .await
            .unwrap();
    assert!(influx.credentials() == &Credentials::Open);
    let written = post(&influx, "/write?db=muster", false, "cpu usage=1").await;
    assert!(written.starts_with("HTTP/1.0 204"), "{written}");
    influx.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_does_not_match_the_data_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    InfluxDb::start(InfluxOptions::new(dir.path())).await.unwrap().stop().await.unwrap();
    let password = dir.path().join("password");
    let right = std::fs::read(&password).unwrap();
    std::fs::write(&password, "another").unwrap();
    let error = InfluxDb::start(InfluxOptions::new(dir.path())).await.unwrap_err();
    assert!(matches!(error, InfluxError::ForeignData), "{error}");
    // The failed start left nothing behind that blocks another one.
    std::fs::write(&password, right).unwrap();
    InfluxDb::start(InfluxOptions::new(dir.path())).await.unwrap().stop().await.unwrap();
}
