//! Sessions in the API, and their list.

use anyhow::Result;
use muster_api_types::sessions::{Access, Session};
use muster_client::{Client, segment};

use crate::commands::items;
use crate::output::{self, ago, table, text};

/// Path of the sessions in the API.
pub(super) const SESSIONS: &str = "/api/v1/sessions";

/// Returns a session.
pub(super) async fn find(client: &Client, id: &str) -> Result<Session> {
    let path = format!("{SESSIONS}/{}", segment(id));
    let found = client.get::<Session>(&path, &[]).await?;
    Ok(found.into_content())
}

/// Lists the sessions.
pub(super) async fn list(
    client: &Client,
    all: bool,
    device: Option<String>,
    json: bool,
) -> Result<()> {
    let mut query = Vec::new();
    query.extend((!all).then(|| ("status", "open".to_owned())));
    query.extend(device.map(|device| ("device", device)));
    let items = items::<Session>(client, SESSIONS, &query, json).await?;
    if json {
        return output::json(&items);
    }
    let rows = items.iter().map(|one| {
        let what = match one.access.known() {
            Some(Access::Tcp(tcp)) => format!("tcp {}:{}", text(&tcp.host), tcp.port),
            Some(Access::Files(files)) => {
                let way = if files.writable { "write" } else { "read" };
                format!("files: {way} {}", text(&files.path))
            }
            Some(Access::Shell(shell)) => match &shell.command {
                Some(command) => format!("shell: {}", text(command)),
                None => "shell".to_owned(),
            },
            None => text(&one.access),
        };
        vec![
            text(one.id),
            text(&one.device),
            text(&one.status),
            what,
            ago(one.created_at),
            text(one.client_count),
            match (one.recorded, one.input_recorded) {
                (true, true) => "with input".to_owned(),
                (true, false) => "yes".to_owned(),
                _ => String::new(),
            },
            text(&one.created_by),
        ]
    });
    let header = ["id", "device", "status", "what", "opened", "attached", "recorded", "by"];
    table(&header, rows.collect(), "no session is open");
    Ok(())
}
