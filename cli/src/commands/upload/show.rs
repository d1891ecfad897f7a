//! Prints uploads as tables and facts.

use anyhow::Result;
use indicatif::BinaryBytes;
use serde_json::Value;

use super::api::{UPLOADS, device_of};
use crate::client::Client;
use crate::output::{self, ago, facts, table, text};

/// Formats `12.0 MiB of 50.0 MiB`, or the total size when complete.
fn size(upload: &Value) -> String {
    let (done, total) = (upload["bytes_done"].as_u64().unwrap_or(0), upload["bytes"].as_u64());
    match total {
        Some(total) if done == total || upload["state"] == "erased" => {
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
    let items = client.newest(UPLOADS, query, limit).await?;
    if json {
        return output::json(&items);
    }
    let rows = items.iter().map(|one| {
        vec![
            text(&one["operation"]),
            device_of(one),
            ago(&one["requested_at"]),
            text(&one["state"]),
            size(one),
            text(&one["path"]),
            text(&one["problem"]),
        ]
    });
    table(
        &["id", "device", "asked", "state", "size", "path", "problem"],
        rows.collect(),
        "no uploads; muster upload start DEVICE PATH starts one",
    );
    Ok(())
}

pub(super) async fn one(client: &Client, path: &str, json: bool) -> Result<()> {
    let found = client.get(path, &[]).await?;
    if json {
        return output::json(&found);
    }
    let speed = found["bytes_per_second"].as_u64();
    let yes = |name: &str| if found[name] == true { "yes" } else { "" }.to_owned();
    facts(&[
        ("id", text(&found["operation"])),
        ("device", device_of(&found)),
        ("path", text(&found["path"])),
        ("state", text(&found["state"])),
        ("", text(&found["explanation"])),
        ("problem", text(&found["problem"])),
        ("name", text(&found["name"])),
        ("size", size(&found)),
        ("requested by", text(&found["actor"])),
        ("requested at", text(&found["requested_at"])),
        ("started at", text(&found["started_at"])),
        ("stored at", text(&found["stored_at"])),
        ("erase at", text(&found["erase_at"])),
        ("erased at", text(&found["erased_at"])),
        ("erase cause", text(&found["erased"])),
        ("removes source", yes("remove_source")),
        ("replaces", yes("replace")),
        (
            "max size",
            found["max_bytes"].as_u64().map(|n| BinaryBytes(n).to_string()).unwrap_or_default(),
        ),
        ("speed limit", speed.map(|speed| format!("{}/s", BinaryBytes(speed))).unwrap_or_default()),
    ]);
    Ok(())
}
