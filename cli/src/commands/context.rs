//! `muster context`: the servers that the command line can use.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::confirm::Confirm;
use crate::client::Connection;
use crate::client::contexts;
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
    let mut known = contexts::load()?;
    let (name, done) = match command {
        ContextCommand::List => {
            if connection.json {
                let names: Vec<_> = known
                    .contexts
                    .iter()
                    .map(|(name, context)| {
                        let current = known.current.as_ref() == Some(name);
                        json!({"name": name, "url": context.url, "current": current})
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
            table(&["", "name", "url"], rows, "no contexts; `muster up` creates one");
            return Ok(());
        }
        ContextCommand::Use { name } => {
            known.get(Some(&name))?;
            known.current = Some(name.clone());
            (name, "is now the current context")
        }
        ContextCommand::Add { name } => {
            known.contexts.insert(name.clone(), connection.new_context()?);
            known.current.get_or_insert_with(|| name.clone());
            (name, "added")
        }
        ContextCommand::Remove { name, confirm } => {
            known.get(Some(&name))?;
            confirm.confirm_one("remove", "context", format!("{name} and its token"))?;
            known.contexts.remove(&name);
            if known.current.as_ref() == Some(&name) {
                known.current = None;
            }
            (name, "removed")
        }
    };
    contexts::save(&known)?;
    if connection.json {
        let url = known.contexts.get(&name).map(|context| &context.url);
        let current = known.current.as_ref() == Some(&name);
        return output::json(&json!({"name": name, "url": url, "current": current}));
    }
    line(format!("{name}: {done}"));
    Ok(())
}
