//! An S3 bucket: SeaweedFS as a separate process.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_backing::ports::free_port;
use tempfile::TempDir;

use crate::wait;

const KEY: &str = "fleet";
const SECRET: &str = "the secret of the bucket";

/// Arguments for the ports of its parts: the first is the S3 API, the second the filer, which gives
/// another access to the bucket's contents.
const PORTS: [&str; 10] = [
    "s3.port",
    "filer.port",
    "master.port",
    "volume.port",
    "admin.port",
    "s3.port.grpc",
    "filer.port.grpc",
    "master.port.grpc",
    "volume.port.grpc",
    "admin.port.grpc",
];

/// A bucket, and its server.
#[derive(Debug)]
pub struct Bucket {
    dir: TempDir,
    ports: [u16; PORTS.len()],
    child: Option<Child>,
}

impl Bucket {
    /// Starts a server with an empty bucket.
    ///
    /// # Panics
    /// When it does not respond.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let ports = PORTS.map(|_| free_port().expect("a port"));
        let mut bucket = Self { dir, ports, child: None };
        bucket.restart().await;
        bucket
    }

    /// Starts the server unless it runs.
    ///
    /// # Panics
    /// When it does not respond.
    pub async fn restart(&mut self) {
        if self.child.is_some() {
            return;
        }
        let ports = PORTS.iter().zip(&self.ports).map(|(name, port)| format!("-{name}={port}"));
        let output = std::fs::File::create(self.dir.path().join("said")).expect("a file");
        let child = Command::new("weed")
            .args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=fleet"])
            .args(["-webdav=false", "-admin.ui=false", "-master.telemetry=false"])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            .args(ports)
            .arg("-dir")
            .arg(self.dir.path())
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .spawn()
            .expect("weed runs; `make test` brings it");
        self.child = Some(child);
        let s3 = self.url(0);
        wait::until("the bucket to answer", Duration::from_secs(60), || async {
            // Without a key it returns 403 as soon as the bucket exists.
            let response = reqwest::get(format!("{s3}/fleet/")).await.ok()?;
            let filer = self.names("").await;
            (response.status() == 403 && filer.is_some()).then_some(())
        })
        .await;
    }

    /// Stops the server; the bucket's contents are kept.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn url(&self, port: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[port])
    }

    /// The environment variables with which a role stores its blobs here, below `muster`.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("MUSTER_BLOBS", "s3://fleet/muster".to_owned()),
            ("AWS_ENDPOINT", self.url(0)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    /// The names in a folder of the bucket, from the server's own storage; `None` when it does not
    /// respond. A missing folder is empty.
    pub async fn names(&self, folder: &str) -> Option<Vec<String>> {
        let url = format!("{}/buckets/fleet/{folder}/?limit=1000", self.url(1));
        let client = reqwest::Client::new();
        let response = client.get(url).header("accept", "application/json").send().await.ok()?;
        if response.status() == 404 {
            return Some(Vec::new());
        }
        let listed: serde_json::Value = serde_json::from_str(&response.text().await.ok()?).ok()?;
        let entries = listed["Entries"].as_array().cloned().unwrap_or_default();
        let name = |entry: &serde_json::Value| {
            let path = entry["FullPath"].as_str()?;
            path.rsplit('/').next().map(str::to_owned)
        };
        Some(entries.iter().filter_map(name).collect())
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let output = std::fs::read_to_string(self.dir.path().join("said")).unwrap_or_default();
            let tail: Vec<&str> = output.lines().rev().take(10).collect();
            eprintln!("last output of weed:");
            for line in tail.into_iter().rev() {
                eprintln!("  {line}");
            }
        }
    }
}
