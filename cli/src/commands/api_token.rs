//! `muster api-token`: API tokens for users and programs.

use anyhow::Result;
use clap::Subcommand;
use muster_api_types::WriteResult;
use muster_api_types::tokens::{ApiToken, CreateToken, TokenCreated};
use muster_client::segment;
use muster_schemas::units::parse_seconds;

use super::confirm::Confirm;
use super::items;
use crate::connection::Connection;
use crate::output::{self, line, note, optional, table, text};

const TOKENS: &str = "/api/v1/tokens";

#[derive(Subcommand, Debug)]
pub(crate) enum ApiTokenCommand {
    /// Create an API token; it is printed only once
    Create {
        /// Name of the token
        name: String,
        /// Role: viewer, operator, admin or auditor
        #[arg(long, default_value = "viewer")]
        role: String,
        /// Lifetime of the token: 90s, 10m, 2h, 7d; default: unlimited
        #[arg(long, value_parser = parse_seconds)]
        ttl: Option<u32>,
        /// Create a server-wide token (requires a server-wide admin token)
        #[arg(long)]
        server_wide: bool,
    },
    /// List API tokens
    List {
        /// List server-wide tokens
        #[arg(long)]
        server_wide: bool,
    },
    /// Revoke an API token
    Revoke {
        /// Id of the token
        id: String,
        #[command(flatten)]
        confirm: Confirm,
        /// Revoke a server-wide token
        #[arg(long)]
        server_wide: bool,
    },
}

pub(crate) async fn run(connection: Connection, command: ApiTokenCommand) -> Result<()> {
    // Server-wide tokens are in the log of the project `system`.
    let connection = match &command {
        ApiTokenCommand::Create { server_wide: true, .. }
        | ApiTokenCommand::List { server_wide: true }
        | ApiTokenCommand::Revoke { server_wide: true, .. } => connection.for_project("system"),
        _ => connection,
    };
    let client = connection.client()?;
    match command {
        ApiTokenCommand::Create { name, role, ttl, server_wide } => {
            let body = CreateToken {
                name: name.parse()?,
                role: role.parse()?,
                expires_in_seconds: ttl,
                server_wide,
            };
            let created = client.post::<TokenCreated>(TOKENS, &body).await?;
            client.wait_until_listed(TOKENS, created.result.position).await;
            if connection.json {
                return output::json(&created);
            }
            // Only the token is written to standard output, for scripts.
            note(format!("id {}", created.id));
            line(text(&created.secret));
            Ok(())
        }
        ApiTokenCommand::List { .. } => {
            let tokens = items::<ApiToken>(&client, TOKENS, &[], connection.json).await?;
            if connection.json {
                return output::json(&tokens);
            }
            let rows = tokens
                .iter()
                .map(|token| {
                    vec![
                        text(token.id),
                        optional(token.name.as_ref()),
                        text(&token.role),
                        text(&token.status),
                        optional(token.expires_at),
                        optional(token.last_used_at),
                    ]
                })
                .collect();
            let header = ["id", "name", "role", "status", "expires", "last used"];
            table(&header, rows, "no API tokens in this project");
            Ok(())
        }
        ApiTokenCommand::Revoke { id, confirm, .. } => {
            confirm.confirm_one("revoke", "API token", &id)?;
            let done = client.delete::<WriteResult>(&format!("{TOKENS}/{}", segment(&id))).await?;
            client.wait_until_listed(TOKENS, done.position).await;
            if connection.json {
                return output::json(&done);
            }
            line(format!("revoked {id}"));
            Ok(())
        }
    }
}
