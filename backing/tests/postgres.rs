//! Tests with a real PostgreSQL: created, used, killed, stopped, restarted, refused.
#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use muster_backing::child::{ChildError, ChildEvent};
use muster_backing::ports::free_port;
use muster_backing::postgres::{Postgres, PostgresError, PostgresOptions, Tuning};
use tokio_postgres::{Client, NoTls};

fn options(dir: &Path) -> PostgresOptions {
    PostgresOptions { tuning: Tuning::Small, ..PostgresOptions::new(dir) }
}

async fn client(postgres: &Postgres) -> Client {
    let (client, connection) =
        tokio_postgres::connect(&postgres.connection_url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn setting(client: &Client, name: &str) -> String {
    client.query_one(&format!("SHOW {name}"), &[]).await.unwrap().get(0)
}

async fn count(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM facts", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_restarts_on_its_port_with_all_committed_data() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    let before = client(&postgres).await;
    before
        .batch_execute(
            "CREATE TABLE facts (n int); INSERT INTO facts SELECT generate_series(1, 1000)",
        )
        .await
        .unwrap();
    let (pid, url) = (postgres.child().pid().unwrap(), postgres.connection_url());
    let mut events = postgres.child().events();

    postgres.child().kill9().unwrap();
    let ChildEvent::Exited { exit, is_requested: false } = events.recv().await.unwrap() else {
        panic!("it did not crash")
    };
    assert_eq!(exit.signal(), Some(9));
    let back = loop {
        // The processes of the killed server may still hold its memory: the first attempts may
        // fail.
        if let ChildEvent::Restarted { pid, .. } = events.recv().await.unwrap() {
            break pid;
        }
    };

    assert_ne!(back, pid);
    assert_eq!(postgres.child().pid(), Some(back));
    assert_eq!(postgres.connection_url(), url);
    assert_eq!(count(&client(&postgres).await).await, 1000);
    postgres.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_durable_and_private_and_requires_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    let client = client(&postgres).await;
    for (name, value) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("listen_addresses", "127.0.0.1"),
        ("idle_in_transaction_session_timeout", "1min"),
    ] {
        assert_eq!(setting(&client, name).await, value, "{name}");
    }
    let wrong = postgres.connection_url().replace("muster:", "muster:x");
    assert!(tokio_postgres::connect(&wrong, NoTls).await.is_err(), "any password is taken");
    let mode =
        |file: &str| fs::metadata(dir.path().join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("password"), mode("data")), (0o600, 0o700));
    assert!(!dir.path().join("password.initdb").exists());
    postgres.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_stays_stopped_and_a_new_owner_finds_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    client(&postgres)
        .await
        .batch_execute("CREATE TABLE facts (n int); INSERT INTO facts VALUES (1)")
        .await
        .unwrap();
    let exit = postgres.child().stop().await.unwrap().unwrap();
    assert_eq!(exit.code(), Some(0), "{exit}");
    assert_eq!((postgres.child().pid(), postgres.child().is_ready()), (None, false));
    assert!(matches!(postgres.child().kill9(), Err(ChildError::NotRunning { .. })));
    postgres.child().restart().await.unwrap();
    assert_eq!(count(&client(&postgres).await).await, 1);
    postgres.stop().await.unwrap();

    let port = free_port().unwrap();
    let again =
        Postgres::start(PostgresOptions { port: Some(port), ..options(dir.path()) }).await.unwrap();
    assert_eq!(again.port(), port);
    assert_eq!(count(&client(&again).await).await, 1);
    again.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_server_stops_responding_and_then_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    let client = client(&postgres).await;
    postgres.child().suspend().unwrap();
    let query = client.simple_query("SELECT 1");
    tokio::pin!(query);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut query).await.is_err(),
        "it answered while frozen"
    );
    postgres.child().resume().unwrap();
    assert!(query.await.is_ok());
    postgres.child().suspend().unwrap();
    let exit = postgres.child().stop().await.unwrap().unwrap();
    assert_eq!(exit.code(), Some(0), "a frozen server is stopped in order, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_folder_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    let error = Postgres::start(options(dir.path())).await.unwrap_err();
    assert!(matches!(error, PostgresError::Child(ChildError::InUse { .. })), "{error}");
    postgres.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_a_cluster_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    fs::write(dir.path().join("data/precious"), "1").unwrap();
    let error = Postgres::start(options(dir.path())).await.unwrap_err();
    assert!(matches!(error, PostgresError::NoCluster { .. }), "{error}");
    assert_eq!(fs::read(dir.path().join("data/precious")).unwrap(), b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_shows_the_end_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    Postgres::start(options(dir.path())).await.unwrap().stop().await.unwrap();
    let config = dir.path().join("data/postgresql.conf");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\nno_such_setting = 1\n")).unwrap();
    let error = Postgres::start(options(dir.path())).await.unwrap_err().to_string();
    assert!(error.contains("no_such_setting") && error.contains("postgres.log"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error =
        Postgres::start(PostgresOptions { port: Some(address.port()), ..options(dir.path()) })
            .await
            .unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
