//! `muster grafana`: prepares a Grafana for this server. It writes the files, creates Grafana's
//! users, and reports errors in alert rules. It does not start Grafana.

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

use crate::connection::Connection;
use crate::output::{self, line, note};
use server::ServerArgs;

#[derive(Subcommand, Debug)]
pub(crate) enum GrafanaCommand {
    /// Grant access, and write data sources, dashboards and alert rules
    ///
    /// For Grafana's Debian package the folder is /etc/grafana/provisioning; restart Grafana
    /// afterwards. Files that muster did not write are not changed. Repeat the export after a
    /// project got its own retention; until then, Grafana does not query its metrics.
    Export {
        /// Provisioning folder of Grafana
        dir: PathBuf,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Create read-only users in PostgreSQL and InfluxDB for Grafana
    User {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Check alert rule files; errors name file, rule and key
    Check {
        /// Provisioning folder, or a folder that contains `provisioning/`
        dir: PathBuf,
    },
}

pub(crate) async fn run(connection: &Connection, command: GrafanaCommand) -> Result<()> {
    match command {
        GrafanaCommand::Export { dir, server } => {
            let (values, store) = server.grant_access().await?;
            let policies = match policies::read_policies(&store).await {
                Ok(policies) => policies,
                Err(error) => {
                    note(format!(
                        "{error:#}; projects with their own retention are not shown until this \
                         command is run again"
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
            let (values, _) = server.grant_access().await?;
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
            line(format!("{rules} alert rules, no errors"));
            Ok(())
        }
    }
}
