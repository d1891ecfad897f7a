//! Prints uploads as tables and facts.

use anyhow::Result;
use indicatif::BinaryBytes;
use muster_api_types::uploads::{Upload, UploadStatus};
use muster_client::{Client, List};

use super::api::UPLOADS;
use crate::commands::newest;
use crate::output::{self, ago, facts, optional, table, text};

/// Formats `12.0 MiB of 50.0 MiB`, or the total size when complete.
fn size(upload: &Upload) -> String {
    let (done, total) = (upload.received_bytes, upload.size_bytes);
    match total {
        Some(total) if done == total || upload.status == UploadStatus::Erased => {
            BinaryBytes(total).to_string()
        }
        Some(total) => format!("{} of {}", BinaryBytes(done), BinaryBytes(total)),
        None => String::new(),
    }
}

pub(super) async fn list(
    client: &Client,
    query: &[(&str, String)],
    limit: Option<u16>,
    json: bool,
) -> Result<()> {
    let items: List<Upload> = newest(client, UPLOADS, query, limit, json).await?;
    if json {
        return output::json(&items);
    }
    let rows = items.iter().map(|one| {
        vec![
            text(one.operation),
            text(&one.device),
            ago(one.created_at),
            text(&one.status),
            size(one),
            text(&one.path),
            optional(one.problem.as_ref()),
        ]
    });
    table(
        &["id", "device", "requested", "status", "size", "path", "problem"],
        rows.collect(),
        "no uploads; muster upload start DEVICE PATH starts one",
    );
    Ok(())
}

pub(super) async fn one(client: &Client, path: &str, json: bool) -> Result<()> {
    let found = client.get::<Upload>(path, &[]).await?;
    if json {
        return output::json(&found);
    }
    let speed = found.max_bytes_per_second;
    let yes = |value: bool| if value { "yes" } else { "" }.to_owned();
    facts(&[
        ("id", text(found.operation)),
        ("device", text(&found.device)),
        ("path", text(&found.path)),
        ("status", text(&found.status)),
        ("", optional(found.explanation.as_ref())),
        ("problem", optional(found.problem.as_ref())),
        ("name", optional(found.file_name.as_ref())),
        ("size", size(&found)),
        ("requested by", text(&found.created_by)),
        ("requested at", text(found.created_at)),
        ("started at", optional(found.started_at)),
        ("stored at", optional(found.stored_at)),
        ("expires at", optional(found.expires_at)),
        ("erased at", optional(found.erased_at)),
        ("erase cause", optional(found.erase_cause.as_ref())),
        ("removes source", yes(found.remove_source)),
        ("replaces", yes(found.replace)),
        ("max size", BinaryBytes(found.max_bytes).to_string()),
        ("speed limit", speed.map(|speed| format!("{}/s", BinaryBytes(speed))).unwrap_or_default()),
    ]);
    Ok(())
}
