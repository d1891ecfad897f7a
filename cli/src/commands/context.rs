//! `muster context`: the servers that the command line can use.

use anyhow::Result;
use clap::Subcommand;
use muster_client::contexts;
use serde_json::json;

use super::confirm::Confirm;
use crate::connection::Connection;
use crate::output::{self, line, table};

#[derive(Subcommand, Debug)]
pub(crate) enum ContextCommand {
    /// List contexts
    List,
    /// Make a context the current one
    Use {
        /// Name of the context
        name: String,
    },
    /// Add or change a context, from --url, --token-file and --ca
    Add {
        /// Name of the context
        name: String,
    },
    /// Remove a context
    Remove {
        /// Name of the context
        name: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

pub(crate) fn run(connection: &Connection, command: ContextCommand) -> Result<()> {
    let mut contexts = contexts::load()?;
    let (name, done) = match command {
        ContextCommand::List => {
            if connection.json {
                let names: Vec<_> = contexts
                    .contexts
                    .iter()
                    .map(|(name, context)| {
                        let current = contexts.current.as_ref() == Some(name);
                        json!({"name": name, "url": context.url, "current": current})
                    })
                    .collect();
                return output::json(&names);
            }
            let rows = contexts
                .contexts
                .iter()
                .map(|(name, context)| {
                    let marker = if contexts.current.as_ref() == Some(name) { "*" } else { "" };
                    vec![marker.to_owned(), name.clone(), context.url.clone()]
                })
                .collect();
            table(&["", "name", "url"], rows, "no contexts; `muster up` creates one");
            return Ok(());
        }
        ContextCommand::Use { name } => {
            contexts.get(Some(&name))?;
            contexts.current = Some(name.clone());
            (name, "is now the current context")
        }
        ContextCommand::Add { name } => {
            contexts.contexts.insert(name.clone(), connection.new_context()?);
            contexts.current.get_or_insert_with(|| name.clone());
            (name, "added")
        }
        ContextCommand::Remove { name, confirm } => {
            contexts.get(Some(&name))?;
            confirm.confirm_one("remove", "context", format!("{name} and its token"))?;
            contexts.contexts.remove(&name);
            if contexts.current.as_ref() == Some(&name) {
                contexts.current = None;
            }
            (name, "removed")
        }
    };
    contexts::save(&contexts)?;
    if connection.json {
        let url = contexts.contexts.get(&name).map(|context| &context.url);
        let current = contexts.current.as_ref() == Some(&name);
        return output::json(&json!({"name": name, "url": url, "current": current}));
    }
    line(format!("{name}: {done}"));
    Ok(())
}
