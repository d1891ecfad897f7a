//! The data folder of `muster up`: one process at a time, stable ports, and `ready.json`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use muster_command::keys::make_private_dir;
use serde::{Deserialize, Serialize};

use muster_files::write_private;

/// Ports of the servers; selected once and stored, so that URLs and configurations stay valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) postgres: Option<u16>,
    pub(super) nats: Option<u16>,
    pub(super) influx: Option<u16>,
    /// Port of the API, if it was selected automatically.
    pub(super) api: Option<u16>,
}

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Lock that is held while this process uses the folder.
    _lock: File,
}

impl Folder {
    pub(super) fn open(path: &Path, port: u16) -> Result<Self> {
        make_private_dir(path, &["lock", "keys", "ports.json"])
            .context("the data folder is unusable")?;
        let path = path.canonicalize()?;
        let lock = path.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .with_context(|| format!("failed to open {}", lock.display()))?;
        if file.try_lock().is_err() {
            bail!(
                "another `muster up` uses {}; stop it, or choose another folder and port: muster up --data DIR --port {}",
                path.display(),
                if port == 0 { 0 } else { port.saturating_add(1) }
            );
        }
        let folder = Self { path, _lock: file };
        folder.remove_ready();
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the stored ports; empty at the first start.
    pub(super) fn ports(&self) -> Result<Ports> {
        let path = self.path.join("ports.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("failed to parse {}; delete it", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Ports::default()),
            Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
        }
    }

    pub(super) fn store_ports(&self, ports: &Ports) -> Result<()> {
        Ok(write_private(&self.path.join("ports.json"), &serde_json::to_vec_pretty(ports)?)?)
    }

    /// Writes `ready.json` for programs, with the URL and the credentials.
    pub(super) fn write_ready(&self, url: &str, token: &str, ca: &Path) -> Result<()> {
        let ready = serde_json::json!({ "url": url, "token": token, "ca": ca });
        Ok(write_private(&self.path.join("ready.json"), &serde_json::to_vec_pretty(&ready)?)?)
    }

    pub(super) fn remove_ready(&self) {
        let _ = fs::remove_file(self.path.join("ready.json"));
    }
}
