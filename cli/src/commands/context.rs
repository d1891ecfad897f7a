//! `muster context`: the servers that this command line knows.

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::client::Connection;
use crate::client::contexts::{self, Context};
use crate::output::{self, line, table};

#[derive(Subcommand, Debug)]
pub(crate) enum ContextCommand {
    /// List contexts
    List,
    /// Use this one from now on
    Use {
        /// Its name
        name: String,
    },
    /// Add or change one, from --url, --token and --ca
    Add {
        /// Its name
        name: String,
    },
    /// Forget one
    Remove {
        /// Its name
        name: String,
    },
}

pub(crate) fn run(connection: &Connection, command: ContextCommand) -> Result<()> {
    let mut known = contexts::load()?;
    match command {
        ContextCommand::List => {
            if connection.json {
                let names: Vec<_> = known
                    .contexts
                    .iter()
                    .map(|(name, context)| {
                        let current = known.current.as_ref() == Some(name);
                        serde_json::json!({"name": name, "url": context.url, "current": current})
                    })
                    .collect();
                return output::json(&names);
            }
            let rows = known
                .contexts
                .iter()
                .map(|(name, context)| {
                    let mark = if known.current.as_ref() == Some(name) { "*" } else { "" };
                    vec![mark.to_owned(), name.clone(), context.url.clone()]
                })
                .collect();
            table(&["", "name", "url"], rows, "no contexts; `muster up` leaves one");
            return Ok(());
        }
        ContextCommand::Use { name } => {
            known.get(Some(&name))?;
            line(format!("{name} is current now"));
            known.current = Some(name);
        }
        ContextCommand::Add { name } => {
            let (Some(url), Some(token)) = (connection.url.clone(), connection.token.clone())
            else {
                bail!("give --url and --token (and --ca, when the server has a CA of its own)");
            };
            let ca = connection.ca.as_deref().map(std::path::absolute).transpose()?;
            known.contexts.insert(name.clone(), Context { url, token, ca });
            known.current.get_or_insert_with(|| name.clone());
            line(format!("added {name}"));
        }
        ContextCommand::Remove { name } => {
            known.get(Some(&name))?;
            known.contexts.remove(&name);
            if known.current.as_ref() == Some(&name) {
                known.current = None;
            }
            line(format!("removed {name}"));
        }
    }
    contexts::save(&known)
}
