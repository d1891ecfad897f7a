//! Sessions in the API, and their list.

use anyhow::Result;
use serde_json::Value;

use crate::client::{Client, segment};
use crate::output::{self, ago, table, text};

/// Path of the sessions in the API.
pub(super) const SESSIONS: &str = "/api/v1/sessions";

/// Returns a session.
pub(super) async fn find(client: &Client, id: &str) -> Result<Value> {
    client.get(&format!("{SESSIONS}/{}", segment(id)), &[]).await
}

/// Returns the name of a session's device, or its id.
pub(super) fn device_name(session: &Value) -> String {
    let name = &session["name"];
    if name.is_string() { text(name) } else { text(&session["device"]) }
}

/// Lists the sessions.
pub(super) async fn list(
    client: &Client,
    all: bool,
    device: Option<String>,
    json: bool,
) -> Result<()> {
    let mut query = Vec::new();
    query.extend((!all).then(|| ("state", "open".to_owned())));
    query.extend(device.map(|device| ("device", device)));
    let items = client.list(SESSIONS, &query).await?;
    if json {
        return output::json(&items);
    }
    let rows = items.iter().map(|one| {
        let what = match one["session"]["kind"].as_str() {
            Some("tcp") => {
                format!("tcp {}:{}", text(&one["session"]["host"]), text(&one["session"]["port"]))
            }
            Some("files") => {
                let way = if one["session"]["write"] == true { "write" } else { "read" };
                format!("files: {way} {}", text(&one["session"]["path"]))
            }
            _ => match one["session"]["command"].as_str() {
                Some(command) => format!("shell: {command}"),
                None => "shell".to_owned(),
            },
        };
        vec![
            text(&one["id"]),
            device_name(one),
            text(&one["state"]),
            what,
            ago(&one["opened_at"]),
            text(&one["attached"]),
            match (one["recorded"] == true, one["input_recorded"] == true) {
                (true, true) => "with input".to_owned(),
                (true, false) => "yes".to_owned(),
                _ => String::new(),
            },
            text(&one["actor"]),
        ]
    });
    let header = ["id", "device", "state", "what", "opened", "attached", "recorded", "by"];
    table(&header, rows.collect(), "no session is open");
    Ok(())
}
