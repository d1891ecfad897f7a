//! `muster status`: prints a summary of the fleet and the server.

use anyhow::Result;
use muster_api_types::Page;
use muster_api_types::events::LogHead;
use muster_api_types::server::{FleetSummary, Projection};
use serde_json::json;

use crate::connection::Connection;
use crate::output::{self, facts, line, optional, pairs, table, text};

pub(crate) async fn run(connection: Connection) -> Result<()> {
    let client = connection.client()?;
    let fleet = client.get::<FleetSummary>("/api/v1/fleet/summary", &[]).await?;
    let head = client.get::<LogHead>("/api/v1/log/head", &[]).await?;
    let projections = client.get::<Page<Projection>>("/api/v1/projections", &[]).await?;
    if connection.json {
        return output::json(&json!({"fleet": fleet, "log": head, "projections": projections}));
    }
    facts(&[
        ("devices", text(fleet.device_count)),
        ("by status", pairs(&fleet.status_counts)),
        ("by os", pairs(&fleet.os_counts)),
        ("by agent", pairs(&fleet.agent_version_counts)),
        ("log ends at", text(head.position)),
        ("merkle root", text(head.root)),
    ]);
    line("");
    let row = |one: &Projection| {
        let failure = optional(one.failure.as_ref());
        vec![text(&one.name), text(one.position), text(one.pending_event_count), failure]
    };
    let rows = projections.items.iter().map(row).collect();
    table(&["projection", "position", "lag", "failure"], rows, "no projections");
    Ok(())
}
