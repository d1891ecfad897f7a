//! `muster dead-letter`: messages that could not be processed, with their reasons.

use anyhow::Result;
use clap::Subcommand;
use muster_api_types::dead_letters::{DeadLetter, DeadLetterRetried};

use super::items;
use crate::connection::Connection;
use crate::output::{self, ago, line, table, text};

#[derive(Subcommand, Debug)]
pub(crate) enum DeadLetterCommand {
    /// List dead letters, newest first
    List {
        /// List dead letters of all projects and of none, for server-wide tokens
        #[arg(long)]
        everywhere: bool,
    },
    /// Show a dead letter with its payload
    Show {
        /// Number of the dead letter
        id: i64,
    },
    /// Process a dead letter again, unchanged
    Retry {
        /// Number of the dead letter
        id: i64,
    },
}

pub(crate) async fn run(connection: Connection, command: DeadLetterCommand) -> Result<()> {
    let client = connection.client()?;
    match command {
        DeadLetterCommand::List { everywhere } => {
            let query = [("everywhere", everywhere.to_string())];
            let dead_letters =
                items::<DeadLetter>(&client, "/api/v1/dead-letters", &query, connection.json)
                    .await?;
            if connection.json {
                return output::json(&dead_letters);
            }
            let rows = dead_letters
                .iter()
                .map(|dead_letter| {
                    vec![
                        text(dead_letter.id),
                        text(&dead_letter.source),
                        text(&dead_letter.cause),
                        text(dead_letter.seen_count),
                        ago(dead_letter.last_seen_at),
                        text(&dead_letter.subject),
                        text(&dead_letter.detail),
                    ]
                })
                .collect();
            let header = ["id", "source", "cause", "seen", "last", "subject", "detail"];
            table(&header, rows, "no dead letters");
            Ok(())
        }
        DeadLetterCommand::Show { id } => {
            let path = format!("/api/v1/dead-letters/{id}");
            output::json(&client.get::<DeadLetter>(&path, &[]).await?)
        }
        DeadLetterCommand::Retry { id } => {
            let path = format!("/api/v1/dead-letters/{id}/retry");
            let done = client.post_empty::<DeadLetterRetried>(&path).await?;
            if connection.json {
                return output::json(&done);
            }
            line(format!("published {id} again"));
            Ok(())
        }
    }
}
