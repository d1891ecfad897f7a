//! `muster grafana`: what a Grafana needs to show this server. It writes the files, lets Grafana's
//! own users in, and names what is wrong in an alert rule. It starts no Grafana.

mod check;
mod export;
mod files;
mod influx;
mod policies;
mod rules;
mod server;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use crate::client::Connection;
use crate::output::{self, line, note};
use server::ServerArgs;

#[derive(Subcommand, Debug)]
pub(crate) enum GrafanaCommand {
    /// Let Grafana in, and write its data sources, dashboards and alert rules into a folder
    ///
    /// On the machine of Grafana's Debian package the folder is /etc/grafana/provisioning; restart
    /// Grafana after it. Files that are not muster's stay as they are. Do it again when a project got a
    /// retention of its own: before that, Grafana does not look where its metrics go.
    Export {
        /// Grafana's provisioning folder
        dir: PathBuf,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Let Grafana in: users of PostgreSQL and InfluxDB that may read what it shows, and no more
    User {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Check alert rule files; says file, rule and key of what is wrong
    Check {
        /// A provisioning folder, or one that holds `provisioning/`
        dir: PathBuf,
    },
}

pub(crate) async fn run(connection: &Connection, command: GrafanaCommand) -> Result<()> {
    match command {
        GrafanaCommand::Export { dir, server } => {
            let (values, store) = server.let_in().await?;
            let policies = match policies::of(&store).await {
                Ok(policies) => policies,
                Err(error) => {
                    note(format!(
                        "{error:#}; projects with a retention of their own are not shown before this is done again"
                    ));
                    Vec::new()
                }
            };
            let written = export::write(&dir, &values, &policies)?;
            if connection.json {
                output::json(&json!({ "written": written }))?;
            } else {
                for path in &written {
                    line(path.display().to_string());
                }
                line(
                    "Restart Grafana (systemctl restart grafana-server), then: Dashboards, muster, Fleet.",
                );
            }
            check::check(&dir).map(drop)
        }
        GrafanaCommand::User { server } => {
            let (values, _) = server.let_in().await?;
            if connection.json {
                return output::json(&values);
            }
            for (name, value) in values {
                line(format!("{name}={value}"));
            }
            Ok(())
        }
        GrafanaCommand::Check { dir } => {
            let rules = check::check(&dir)?;
            if connection.json {
                return output::json(&json!({ "rules": rules }));
            }
            line(format!("{rules} alert rules, nothing wrong"));
            Ok(())
        }
    }
}
