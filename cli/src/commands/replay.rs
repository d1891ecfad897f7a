//! `muster replay`: shows the fleet at an earlier state, replayed from the log.

use anyhow::Result;
use clap::Args;
use muster_api_types::devices::DeviceSummary;
use muster_schemas::Position;

use super::device::print_devices;
use crate::connection::Connection;
use crate::output;

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct ReplayArgs {
    /// State after this position of the log
    #[arg(long)]
    to_position: Option<Position>,
    /// State at this time, such as 2026-11-23T08:00:00Z
    #[arg(long)]
    to_time: Option<String>,
}

pub(crate) async fn run(connection: Connection, args: ReplayArgs) -> Result<()> {
    let client = connection.client()?;
    let mut query: Vec<(&str, String)> = Vec::new();
    query.extend(args.to_position.map(|position| ("position", position.to_string())));
    query.extend(args.to_time.map(|time| ("at", time)));
    let devices = client.list::<DeviceSummary>("/api/v1/devices", &query).await?;
    if connection.json {
        return output::json(&devices);
    }
    print_devices(&devices);
    Ok(())
}
