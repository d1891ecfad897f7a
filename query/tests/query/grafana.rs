//! Grafana's role: created by a database role that may create others, and by one that may not.

use muster_backing::postgres::{Postgres, PostgresOptions, Tuning};
use muster_eventlog::projection::Runner;
use muster_eventlog::{ConnectOptions, EventLog, LogOptions};
use muster_query::grafana::{self, GrantOutcome};
use muster_query::projections::devices::{self, Devices};
use muster_query::projections::timeline::{self, Timeline};
use tokio_postgres::{Client, Config, NoTls};

async fn connect(url: &str, user: Option<(&str, &str)>) -> Result<Client, tokio_postgres::Error> {
    let mut config: Config = url.parse()?;
    if let Some((user, password)) = user {
        config.user(user).password(password);
    }
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Prepares the tables and views like the start of the query role.
async fn read_side(log: &EventLog) {
    Runner::open(log.clone(), Devices::new(devices::TABLE)).await.unwrap();
    Runner::open(log.clone(), Timeline::new(timeline::TABLE)).await.unwrap();
    grafana::publish(log).await.unwrap();
}

async fn server() -> (Postgres, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let options = PostgresOptions { tuning: Tuning::Throwaway, ..PostgresOptions::new(dir.path()) };
    (Postgres::start(options).await.unwrap(), dir)
}

#[tokio::test]
async fn a_role_that_may_create_roles_creates_the_grafana_role() {
    let (postgres, _dir) = server().await;
    let url = postgres.connection_url();
    let log = EventLog::open(&ConnectOptions::new(&url), LogOptions::default()).await.unwrap();
    // Before and after the query role has started for the first time.
    assert_eq!(grafana::grant_access(&log, "first").await.unwrap(), GrantOutcome::Granted);
    read_side(&log).await;
    let odd = r"it's \ odd; --";
    assert_eq!(grafana::grant_access(&log, odd).await.unwrap(), GrantOutcome::Granted);
    assert!(connect(&url, Some((grafana::ROLE, "first"))).await.is_err());
    let client = connect(&url, Some((grafana::ROLE, odd))).await.unwrap();
    for view in [
        "projects",
        "events",
        "dead_letters",
        "read_models",
        "work",
        "devices",
        "device_labels",
        "device_events",
    ] {
        client.query(&format!("SELECT * FROM grafana.{view}"), &[]).await.unwrap();
    }
    client.query("SELECT * FROM heads", &[]).await.unwrap_err();
    // The read model of an earlier release lags permanently, and must not cause an alert.
    let old = "INSERT INTO checkpoints (projection, project) VALUES ('devices_v0', 'default')";
    connect(&url, None).await.unwrap().execute(old, &[]).await.unwrap();
    log.ensure_project(&"default".parse().unwrap()).await.unwrap();
    let models = "SELECT 1 FROM grafana.read_models WHERE projection = 'devices_v0'";
    assert!(client.query(models, &[]).await.unwrap().is_empty());
    // Again, while a client is connected.
    read_side(&log).await;
    client.query("SELECT * FROM grafana.devices", &[]).await.unwrap();
}

#[tokio::test]
async fn a_role_that_may_not_create_roles_reports_it_and_grants_to_the_existing_one() {
    let (postgres, _dir) = server().await;
    let admin = connect(&postgres.connection_url(), None).await.unwrap();
    admin.batch_execute("CREATE ROLE plain LOGIN PASSWORD 'plain'").await.unwrap();
    admin.batch_execute("CREATE DATABASE managed OWNER plain").await.unwrap();
    let url = postgres.connection_url_of("managed");
    let plain = url.split_once('@').map(|(_, rest)| format!("postgres://plain:plain@{rest}"));
    let plain = ConnectOptions::new(plain.unwrap());
    let log = EventLog::open(&plain, LogOptions::default()).await.unwrap();
    read_side(&log).await;
    assert_eq!(grafana::grant_access(&log, "unused").await.unwrap(), GrantOutcome::NoRole);
    // An administrator creates the role that muster may not create.
    admin.batch_execute("CREATE ROLE muster_grafana LOGIN PASSWORD 'given'").await.unwrap();
    assert_eq!(
        grafana::grant_access(&log, "other").await.unwrap(),
        GrantOutcome::PasswordUnchanged
    );
    let client = connect(&url, Some((grafana::ROLE, "given"))).await.unwrap();
    client.query("SELECT * FROM grafana.devices", &[]).await.unwrap();
    client.query("SELECT * FROM events", &[]).await.unwrap_err();
}
