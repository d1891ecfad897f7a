//! The diagnostics archive: the agent's status, the results of the doctor, config, inventory, log,
//! and basic information of the kernel.
//!
//! Invariant: the archive contains no key and no credential: its content is public, or its secrets
//! are removed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use muster_schemas::names::ConfigVars;
use serde_json::{Value, json};
use tar::{Builder, Header};
use tokio::time::timeout;

use crate::clock::Moment;
use crate::doctor::examine;
use crate::inventory;
use crate::status::Status;
use crate::subprocess::output_of;

/// Maximum size of a file in the archive, in bytes.
const MAX_FILE_BYTES: usize = 256 * 1024;
/// Timeout of parts that depend on other processes (the doctor, systemd's journal).
const PART_TIMEOUT: Duration = Duration::from_secs(20);
/// The kernel's files with information about the machine.
const KERNEL_FILES: &[&str] =
    &["loadavg", "meminfo", "mounts", "net/dev", "stat", "uptime", "version", "pressure/memory"];
/// The value of a variable whose name contains one of these is removed.
const SECRET_NAME_PARTS: &[&str] =
    &["secret", "password", "passwd", "token", "key", "credential", "private"];

/// Collects the archive of an agent with this status and these config variables; `data` is its data
/// folder, `root` the root of the measured system.
pub(super) async fn collect_diagnostics(
    status: Status,
    config: ConfigVars,
    data: &Path,
    root: PathBuf,
) -> io::Result<Vec<u8>> {
    let (checks, found, log) = tokio::join!(
        timeout(PART_TIMEOUT, examine(data, Ok(status.clone()))),
        timeout(PART_TIMEOUT, tokio::task::spawn_blocking(move || inventory::collect(&root))),
        log(data),
    );
    let doctor = checks.map_or_else(|_| json!("the doctor did not finish in time"), |it| json!(it));
    let mut archive = Archive::new();
    archive.json("status.json", &json!(status))?;
    archive.json("doctor.json", &doctor)?;
    archive.json("config.json", &redacted_config(&config))?;
    if let Ok(Ok(found)) = found {
        archive.json("inventory.json", &json!(found))?;
    }
    if let Some(log) = log {
        archive.add("agent.log", &log)?;
    }
    for name in KERNEL_FILES {
        if let Ok(text) = head(&Path::new("/proc").join(name)) {
            archive.add(&format!("proc/{name}"), &text)?;
        }
    }
    if let Ok(uname) = nix::sys::utsname::uname() {
        let parts = [uname.sysname(), uname.release(), uname.version(), uname.machine()];
        let line = parts.map(|word| word.to_string_lossy().into_owned()).join(" ");
        archive.add("uname", line.as_bytes())?;
    }
    archive.finish()
}

/// Returns the config variables; values of those that look like secrets are removed.
fn redacted_config(vars: &ConfigVars) -> Value {
    let shown = vars.iter().map(|(key, value)| {
        let name = key.as_str();
        let is_secret = SECRET_NAME_PARTS.iter().any(|word| name.to_lowercase().contains(word));
        (name.to_owned(), if is_secret { json!("omitted") } else { json!(value) })
    });
    Value::Object(shown.collect())
}

/// Returns the newest lines of the agent's log: its file if the installer configured one, otherwise
/// systemd's journal.
async fn log(data: &Path) -> Option<Vec<u8>> {
    if let Ok(tail) = tail(&data.join("agent.log")) {
        return Some(tail);
    }
    let argv =
        ["journalctl", "-u", "muster-agent.service", "-n", "1000", "--no-pager", "-o", "short-iso"];
    output_of(&argv.map(str::to_owned), MAX_FILE_BYTES, PART_TIMEOUT).await
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES as u64).read_to_end(&mut text)?;
    Ok(text)
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_FILE_BYTES as u64)))?;
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES as u64).read_to_end(&mut text)?;
    Ok(text)
}

struct Archive {
    builder: Builder<GzEncoder<Vec<u8>>>,
    now: u64,
}

impl Archive {
    fn new() -> Self {
        let seconds = Moment::now().wall.seconds();
        Self {
            builder: Builder::new(GzEncoder::new(Vec::new(), Compression::default())),
            now: u64::try_from(seconds).unwrap_or(0),
        }
    }

    fn json(&mut self, name: &str, value: &Value) -> io::Result<()> {
        self.add(name, serde_json::to_string_pretty(value)?.as_bytes())
    }

    fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let content = &content[..content.len().min(MAX_FILE_BYTES)];
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.now);
        self.builder.append_data(&mut header, format!("muster-diagnostics/{name}"), content)
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        let mut encoder = self.builder.into_inner()?;
        encoder.flush()?;
        encoder.finish()
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::names::ConfigValue;

    use super::*;

    #[test]
    fn secrets_are_left_out_of_the_config() {
        let text = |text: &str| ConfigValue::Text(text.to_owned());
        let vars = [("app.color", "blue"), ("app.api_Token", "hush"), ("wifi.password", "hush")];
        let vars = vars.map(|(key, value)| (key.to_lowercase().parse().unwrap(), text(value)));
        let shown = redacted_config(&vars.into()).to_string();
        assert!(shown.contains("blue") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn the_size_of_files_in_the_archive_is_limited() {
        let mut archive = Archive::new();
        archive.add("large", &vec![b'x'; MAX_FILE_BYTES + 10]).unwrap();
        archive.json("small.json", &json!({"a": 1})).unwrap();
        let bytes = archive.finish().unwrap();
        let mut found = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let sizes: Vec<_> = found
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.path().unwrap().display().to_string(), entry.size())
            })
            .collect();
        assert_eq!(sizes[0], ("muster-diagnostics/large".to_owned(), MAX_FILE_BYTES as u64));
        assert_eq!(sizes.len(), 2);
    }
}
