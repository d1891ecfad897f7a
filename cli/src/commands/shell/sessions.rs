//! Sessions in the API, and their list.

use anyhow::Result;
use muster_api_types::sessions::SessionView;
use muster_client::{Client, segment};
use muster_schemas::events::SessionKind;

use crate::commands::items;
use crate::output::{self, ago, table, text};

/// Path of the sessions in the API.
pub(super) const SESSIONS: &str = "/api/v1/sessions";

/// Returns a session.
pub(super) async fn find(client: &Client, id: &str) -> Result<SessionView> {
    let path = format!("{SESSIONS}/{}", segment(id));
    let found = client.get::<SessionView>(&path, &[]).await?;
    Ok(found.into_content())
}

/// Returns the name of a session's device, or its id.
pub(super) fn device_name(session: &SessionView) -> String {
    session.name.as_ref().map_or_else(|| text(session.device), text)
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
    let items = items::<SessionView>(client, SESSIONS, &query, json).await?;
    if json {
        return output::json(&items);
    }
    let rows = items.iter().map(|one| {
        let what = match one.session.known() {
            Some(SessionKind::Tcp { host, port }) => format!("tcp {}:{port}", text(host)),
            Some(SessionKind::Files { path, write }) => {
                let way = if *write { "write" } else { "read" };
                format!("files: {way} {}", text(path))
            }
            Some(SessionKind::Shell { command: Some(command), .. }) => format!("shell: {command}"),
            Some(SessionKind::Shell { command: None, .. }) => "shell".to_owned(),
            None => text(&one.session),
        };
        vec![
            text(one.id),
            device_name(one),
            text(&one.state),
            what,
            ago(one.opened_at),
            text(one.attached),
            match (one.recorded, one.input_recorded) {
                (true, true) => "with input".to_owned(),
                (true, false) => "yes".to_owned(),
                _ => String::new(),
            },
            text(&one.actor),
        ]
    });
    let header = ["id", "device", "state", "what", "opened", "attached", "recorded", "by"];
    table(&header, rows.collect(), "no session is open");
    Ok(())
}
