//! Tests with a real InfluxDB: created, written to, killed.
#![cfg(test)]

use muster_backing::child::ChildEvent;
use muster_backing::influx::{Auth, Credentials, Flavor, InfluxDb, InfluxError, InfluxOptions};
use muster_metric_store::{InfluxClient, StoreError, StoreSettings, WriteResponse};

fn client(influx: &InfluxDb, credentials: &Credentials) -> InfluxClient {
    let credentials = credentials.clone();
    InfluxClient::new(StoreSettings { credentials, ..influx.store_settings().clone() }).unwrap()
}

async fn write(influx: &InfluxDb, credentials: &Credentials, lines: &str) -> WriteResponse {
    let client = client(influx, credentials);
    client.write(client.pack(lines.into())).await
}

async fn count(influx: &InfluxDb) -> Option<u64> {
    let client = client(influx, influx.credentials());
    let rows = client.query("SELECT COUNT(usage) FROM cpu").await.unwrap();
    rows.first()?.values.first()?.get(1)?.as_u64()
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
    let lines = "cpu,host=a usage=1 1000000\ncpu,host=a usage=2 2000000\n";
    let written = write(&influx, influx.credentials(), lines).await;
    assert_eq!(written, WriteResponse::Written);
    let denied = write(&influx, &Credentials::Open, "cpu usage=3\n").await;
    assert!(matches!(denied, WriteResponse::Misconfigured(_)), "{denied:?}");

    let mut events = influx.child().events();
    influx.child().kill9().unwrap();
    assert!(matches!(events.recv().await.unwrap(), ChildEvent::Exited { is_requested: false, .. }));
    assert!(matches!(events.recv().await.unwrap(), ChildEvent::Restarted { .. }));
    assert_eq!(count(&influx).await, Some(2));
    let credentials = influx.credentials().clone();
    influx.stop().await.unwrap();

    let again = InfluxDb::start(InfluxOptions::new(dir.path())).await.unwrap();
    assert!(again.credentials() == &credentials);
    assert_eq!(count(&again).await, Some(2));
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
    let written = write(&influx, &Credentials::Open, "cpu usage=1\n").await;
    assert_eq!(written, WriteResponse::Written);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_user_can_query_and_not_write() {
    let dir = tempfile::tempdir().unwrap();
    let influx = InfluxDb::start(InfluxOptions::new(dir.path())).await.unwrap();
    let administrator = client(&influx, influx.credentials());
    administrator.query("SHOW MEASUREMENTS").await.unwrap();
    // The second call sets the password of the existing user.
    for password in ["first", "a'b\\c\"d"] {
        administrator.grant_read("reader", password).await.unwrap();
        let reader = Credentials::Password { user: "reader".into(), password: password.into() };
        client(&influx, &reader).query("SHOW MEASUREMENTS").await.unwrap();
        let denied = write(&influx, &reader, "cpu usage=1\n").await;
        assert!(matches!(denied, WriteResponse::Misconfigured(_)), "{denied:?}");
    }
    let old = Credentials::Password { user: "reader".into(), password: "first".into() };
    let error = client(&influx, &old).query("SHOW MEASUREMENTS").await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    influx.stop().await.unwrap();
}
