//! Copies a stored file to this machine.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use muster_api_types::uploads::Upload;
use muster_client::Client;
use serde_json::json;

use crate::exit::UsageError;
use crate::output::{self, note};

/// Maximum number of attempts without progress to resume an interrupted copy.
const MAX_ATTEMPTS: u32 = 6;
const RETRY_DELAY: Duration = Duration::from_millis(300);

/// Copies the file of the upload at `path` in the API.
pub(super) async fn get(
    client: &Client,
    path: &str,
    output: Option<PathBuf>,
    json: bool,
) -> Result<()> {
    let found = client.get::<Upload>(path, &[]).await?;
    // Only the last component, because the device chooses the name.
    let name = found.file_name.as_deref().and_then(|name| Path::new(name).file_name());
    let name = name.map(PathBuf::from);
    let total = found.size_bytes.unwrap_or(0);
    let content = format!("{path}/content");
    if output.as_deref() == Some(Path::new("-")) {
        return copy(client, &content, total, &mut std::io::stdout()).await;
    }
    let file =
        output.or(name).context("the file is not stored; muster upload show explains why")?;
    if file.exists() {
        let message = format!("{} exists already; choose another file with -o", file.display());
        return Err(UsageError(message).into());
    }
    let mut part = file.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut sink = create(&part)?;
    if let Err(error) = copy(client, &content, total, &mut sink).await {
        let _ = std::fs::remove_file(&part);
        return Err(error);
    }
    sink.sync_all().with_context(|| format!("failed to write {}", part.display()))?;
    std::fs::rename(&part, &file).with_context(|| format!("failed to write {}", file.display()))?;
    if json {
        return output::json(&json!({"file": file, "size_bytes": total}));
    }
    note(format!("{} ({})", file.display(), BinaryBytes(total)));
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).write(true).truncate(true).open(path);
    opened.with_context(|| format!("failed to write {}", path.display()))
}

/// Copies all bytes; a lost connection is reopened at its last position.
async fn copy(client: &Client, path: &str, total: u64, sink: &mut dyn Write) -> Result<()> {
    let bar = ProgressBar::new(total);
    let style = "{bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
    bar.set_style(ProgressStyle::with_template(style)?);
    let mut at = 0_u64;
    let mut failures = 0;
    loop {
        let broken = match client.bytes_from(path, at).await {
            Ok(response) => {
                let mut stream = response.bytes_stream();
                loop {
                    match stream.next().await {
                        Some(Ok(bytes)) => {
                            failures = 0;
                            at += bytes.len() as u64;
                            sink.write_all(&bytes).context("failed to write the file")?;
                            bar.set_position(at);
                        }
                        None => break None,
                        Some(Err(error)) => break Some(anyhow::Error::from(error)),
                    }
                }
            }
            Err(error) if crate::exit::is_temporary(&error) => Some(error),
            Err(error) => return Err(error),
        };
        if at == total && broken.is_none() {
            bar.finish_and_clear();
            sink.flush().context("failed to write the file")?;
            return Ok(());
        }
        failures += 1;
        if failures >= MAX_ATTEMPTS || at > total {
            bar.finish_and_clear();
            let message = format!(
                "the download ended at {at} of {total} bytes: the file may be damaged; see the \
                 server's log"
            );
            match broken {
                Some(error) => return Err(error.context(message)),
                None => bail!(message),
            }
        }
        tokio::time::sleep(RETRY_DELAY * failures).await;
    }
}
