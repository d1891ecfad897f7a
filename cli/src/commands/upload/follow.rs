//! Waits for the uploads of an operation, and shows their progress.

use std::time::Duration;

use anyhow::Result;
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use muster_api_types::devices::{DeviceDetail, Status};
use muster_api_types::operations::OperationDetail;
use muster_api_types::uploads::{Upload, UploadStatus};
use muster_client::{Client, Received, segment};

use super::api::UPLOADS;
use crate::commands::operation::{RequestedOperation, get_with_retry, is_over, wait_or_abort};
use crate::exit::Exited;
use crate::output::{self, line, note, optional, text};

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// Maximum number of devices for which the progress counts bytes; for more, it counts devices.
const MAX_COUNTED_DEVICES: u64 = 20;

/// Waits until all uploads have ended; the exit code is 0 if all are stored.
pub(super) async fn follow(
    client: &Client,
    operation: &RequestedOperation,
    json: bool,
) -> Result<()> {
    wait_or_abort(client, operation, wait(client, operation, json)).await
}

async fn wait(client: &Client, operation: &RequestedOperation, json: bool) -> Result<()> {
    note(format!("upload {}", operation.id));
    let bar = ProgressBar::new(0);
    let path = format!("/api/v1/operations/{}", segment(&operation.id));
    let mut is_reported = false;
    loop {
        let found: Received<OperationDetail> =
            get_with_retry(client, &path, &[], operation.position).await?;
        if operation.devices <= MAX_COUNTED_DEVICES {
            let uploads = match uploads(client, &operation.id).await {
                // The wait above detects a server that stays unavailable.
                Err(error) if crate::exit::is_temporary(&error) => continue,
                uploads => uploads?,
            };
            show_bytes(&bar, &uploads)?;
            if !json && !is_reported && operation.devices == 1 {
                is_reported = report_if_offline(client, &uploads).await;
            }
        } else {
            let style = "{bar:30} {pos}/{len} devices  {elapsed}  {msg}";
            bar.set_style(ProgressStyle::with_template(style)?);
            bar.set_length(operation.devices);
            bar.set_position(found.operation.finished_count);
        }
        if is_over(&found) {
            break;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    bar.finish_and_clear();
    let uploads = uploads(client, &operation.id).await?;
    let stored = uploads.iter().filter(|upload| upload.status == UploadStatus::Stored).count();
    if json {
        output::json(&uploads)?;
    } else {
        for upload in &uploads {
            print_result(upload);
        }
    }
    match (stored as u64 == operation.devices, operation.devices) {
        (true, _) => Ok(()),
        (false, 1) => Err(Exited(125).into()),
        (false, _) => Err(Exited(1).into()),
    }
}

async fn uploads(client: &Client, id: &str) -> Result<Vec<Received<Upload>>> {
    client.list(UPLOADS, &[("operation", id.to_owned())]).await
}

fn show_bytes(bar: &ProgressBar, uploads: &[Received<Upload>]) -> Result<()> {
    let style = "{bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {elapsed}  {wide_msg}";
    bar.set_style(ProgressStyle::with_template(style)?);
    bar.set_length(uploads.iter().filter_map(|it| it.size_bytes).sum());
    bar.set_position(uploads.iter().map(|it| it.received_bytes).sum());
    let problem = uploads.iter().find_map(|it| it.problem.clone());
    bar.set_message(problem.unwrap_or_default());
    Ok(())
}

/// Reports that an upload waits for an offline device.
async fn report_if_offline(client: &Client, uploads: &[Received<Upload>]) -> bool {
    let Some(upload) = uploads.first() else { return false };
    if upload.status == UploadStatus::Waiting {
        let path = format!("/api/v1/devices/{}", segment(&text(upload.device.id)));
        if let Ok(device) = client.get::<DeviceDetail>(&path, &[]).await
            && device.summary.status != Status::Online
        {
            let DeviceDetail { summary: device, .. } = &*device;
            let (name, status) = (optional(device.name.as_ref()), text(&device.status));
            note(format!(
                "{name} is {status}; it sends the file when it reconnects. Ctrl-C aborts the \
                 upload"
            ));
        }
    }
    true
}

/// Prints the result of an upload.
fn print_result(upload: &Upload) {
    let device = text(&upload.device);
    let problem = optional(upload.problem.as_ref());
    if upload.status == UploadStatus::Stored {
        let (name, bytes) = (optional(upload.file_name.as_ref()), upload.size_bytes.unwrap_or(0));
        line(format!("{device}: stored, {name} ({})", BinaryBytes(bytes)));
        note(format!("muster upload get {} {device}", upload.operation));
        if !problem.is_empty() {
            note(format!("{device}: {problem}"));
        }
    } else {
        note(format!("{device}: {problem}"));
    }
}
