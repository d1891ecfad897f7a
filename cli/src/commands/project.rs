//! `muster project`: projects, each with separate devices, tokens and log.

use anyhow::Result;
use clap::Subcommand;
use muster_schemas::Retention;
use serde_json::json;

use super::confirm::Confirm;
use crate::client::{Connection, segment};
use crate::output::{self, line, table, text};

#[derive(Subcommand, Debug)]
pub(crate) enum ProjectCommand {
    /// Create a project; its id cannot be changed
    Create {
        /// Id of the project: 1 to 40 of a-z, 0-9 and -, the first of a-z
        id: String,
        /// Title of the project; default: the id
        #[arg(long)]
        title: Option<String>,
        /// Retention of its metrics: 30d, 2w …; default: that of the metric store
        #[arg(long)]
        retention: Option<Retention>,
    },
    /// List projects
    List,
    /// Change the title of a project
    Rename {
        /// Id of the project
        id: String,
        /// New title
        title: String,
    },
    /// Set the retention of a project's metrics
    Set {
        /// Id of the project
        id: String,
        /// 30d, 2w …; `default`: the retention of the metric store
        #[arg(long)]
        retention: Retention,
    },
    /// Archive a project: it becomes read-only and accepts no devices
    Archive {
        /// Id of the project
        id: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Restore an archived project
    Restore {
        /// Id of the project
        id: String,
    },
}

pub(crate) async fn run(connection: Connection, command: ProjectCommand) -> Result<()> {
    let client = connection.client()?;
    let path_of = |id: &str| format!("/api/v1/projects/{}", segment(id));
    let (done, message) = match command {
        ProjectCommand::List => {
            let projects = client.list("/api/v1/projects", &[]).await?;
            if connection.json {
                return output::json(&projects);
            }
            let rows = projects
                .iter()
                .map(|project| {
                    let of = |name: &str| text(&project[name]);
                    vec![
                        of("id"),
                        of("title"),
                        of("status"),
                        of("retention"),
                        of("position"),
                        of("created_at"),
                    ]
                })
                .collect();
            table(
                &["id", "title", "status", "metrics kept", "events", "created"],
                rows,
                "no projects",
            );
            return Ok(());
        }
        ProjectCommand::Create { id, title, retention } => {
            let mut body = json!({"id": id});
            if let Some(title) = title {
                body["title"] = title.into();
            }
            if let Some(retention) = retention {
                body["retention"] = retention.to_string().into();
            }
            (client.post("/api/v1/projects", &body).await?, format!("created the project {id}"))
        }
        ProjectCommand::Rename { id, title } => {
            let body = json!({"title": title});
            (client.patch(&path_of(&id), &body).await?, format!("{id} now has the title '{title}'"))
        }
        ProjectCommand::Set { id, retention } => {
            let body = json!({"retention": retention});
            let message = match retention.days() {
                Some(days) => format!(
                    "new metrics of {id} are kept for {days} days; for Grafana, run `muster grafana export` again"
                ),
                None => format!("new metrics of {id} are kept as long as those of all projects"),
            };
            (client.patch(&path_of(&id), &body).await?, message)
        }
        ProjectCommand::Archive { id, confirm } => {
            confirm.confirm_one("archive", "project", &id)?;
            let body = json!({"archived": true});
            (client.patch(&path_of(&id), &body).await?, format!("{id} is archived"))
        }
        ProjectCommand::Restore { id } => {
            let body = json!({"archived": false});
            (client.patch(&path_of(&id), &body).await?, format!("{id} is active again"))
        }
    };
    if connection.json {
        return output::json(&done);
    }
    line(message);
    Ok(())
}
