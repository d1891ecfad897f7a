//! `muster bootstrap`: creates the first admin token, and prints it.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::connection::Connection;
use crate::output::{self, line, note};

#[derive(Args, Debug)]
pub(crate) struct BootstrapArgs {
    #[command(flatten)]
    server: muster_server::bootstrap::BootstrapArgs,
    /// Do not print the admin token; it is in `admin-token` in the key folder
    #[arg(long)]
    quiet: bool,
}

pub(crate) async fn run(connection: &Connection, args: BootstrapArgs) -> Result<()> {
    let created = muster_server::bootstrap::run(args.server).await?;
    if !created.has_database_users {
        note(
            "this PostgreSQL user may not create users: the roles have no database users of their \
             own; see docs/operations.md for the rights that each needs",
        );
    }
    if connection.json {
        return output::json(&json!({"token": created.token, "ca": created.ca}));
    }
    if !args.quiet {
        line(created.token);
    }
    Ok(())
}
