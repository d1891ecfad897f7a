//! `muster status`: prints a summary of the fleet and the server.

use anyhow::Result;
use serde_json::json;

use crate::client::Connection;
use crate::output::{self, facts, line, pairs, table, text};

pub(crate) async fn run(connection: Connection) -> Result<()> {
    let client = connection.client()?;
    let fleet = client.get("/api/v1/fleet/summary", &[]).await?;
    let head = client.get("/api/v1/log/head", &[]).await?;
    let projections = client.get("/api/v1/projections", &[]).await?;
    if connection.json {
        return output::json(&json!({"fleet": fleet, "log": head, "projections": projections}));
    }
    facts(&[
        ("devices", text(&fleet["total"])),
        ("by status", pairs(&fleet["status"])),
        ("by os", pairs(&fleet["os"])),
        ("by agent", pairs(&fleet["agent_version"])),
        ("log ends at", text(&head["position"])),
        ("merkle root", text(&head["root"])),
    ]);
    line("");
    let rows = projections["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| ["name", "position", "lag", "failure"].map(|name| text(&one[name])).to_vec())
        .collect();
    table(&["projection", "position", "lag", "failure"], rows, "no projections");
    Ok(())
}
