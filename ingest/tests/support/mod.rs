//! Starts a real InfluxDB 1.x for tests, on a free port, below a temporary folder.
//!
//! To be replaced by the crate `muster-backing`. Installs nothing: `influxd` must be on PATH.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A running (or killed) InfluxDB; dropping this ends it and deletes its folder.
pub(crate) struct Influx {
    folder: TempDir,
    child: Option<Child>,
    port: u16,
    http: reqwest::Client,
}

/// Installs the crypto provider that every muster process installs first.
pub(crate) fn install_crypto() {
    // Another test of this process may have installed it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

impl Influx {
    /// Starts a store; `http` contains additional lines for the `[http]` section of its
    /// configuration.
    pub(crate) async fn start(http: &str) -> Result<Self, Failure> {
        install_crypto();
        let folder = TempDir::new()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let at = folder.path().display();
        let config = format!(
            "reporting-disabled = true\nbind-address = \"127.0.0.1:0\"\n\
             [meta]\ndir = \"{at}/meta\"\n\
             [data]\ndir = \"{at}/data\"\nwal-dir = \"{at}/wal\"\nquery-log-enabled = false\n\
             [monitor]\nstore-enabled = false\n\
             [http]\nbind-address = \"127.0.0.1:{port}\"\nlog-enabled = false\n{http}\n"
        );
        std::fs::write(folder.path().join("influxdb.conf"), config)?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let mut store = Self { folder, child: None, port, http };
        store.restart().await?;
        Ok(store)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn restart(&mut self) -> Result<(), Failure> {
        self.kill().await?;
        let child = Command::new("influxd")
            .arg("run")
            .arg("-config")
            .arg(self.folder.path().join("influxdb.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start influxd: {error}; apt-get install influxdb"))?;
        self.child = Some(child);
        for _ in 0..200 {
            if self.http.get(format!("{}/ping", self.url())).send().await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("influxd did not answer within 10 s".into())
    }

    /// Kills it with SIGKILL.
    pub(crate) async fn kill(&mut self) -> Result<(), Failure> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// The rows of one InfluxQL query against `metrics`; times in microseconds.
    pub(crate) async fn rows(&self, query: &str) -> Result<Vec<Vec<serde_json::Value>>, Failure> {
        let url = reqwest::Url::parse_with_params(
            &format!("{}/query", self.url()),
            [("db", "metrics"), ("epoch", "u"), ("q", query)],
        )?;
        let response: serde_json::Value = self.http.get(url).send().await?.json().await?;
        if let Some(error) = response.pointer("/results/0/error") {
            return Err(error.to_string().into());
        }
        let rows = response.pointer("/results/0/series/0/values").cloned();
        Ok(serde_json::from_value(rows.unwrap_or_else(|| serde_json::json!([])))?)
    }

    /// The number of values of a field.
    pub(crate) async fn count(&self, measurement: &str, field: &str) -> Result<u64, Failure> {
        let rows = self.rows(&format!("SELECT count({field}) FROM {measurement}")).await?;
        Ok(rows.first().and_then(|row| row.get(1)).and_then(serde_json::Value::as_u64).unwrap_or(0))
    }
}
