//! `muster project`: projects, each with separate devices, tokens and log.

use anyhow::Result;
use clap::Subcommand;
use muster_api_types::WriteResult;
use muster_api_types::projects::{
    ChangeProject, CreateProject, Project, ProjectMade, ProjectStatus,
};
use muster_client::{Client, segment};
use muster_schemas::Retention;
use serde::Serialize;

use super::confirm::Confirm;
use super::items;
use crate::connection::Connection;
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

const PROJECTS: &str = "/api/v1/projects";

pub(crate) async fn run(connection: Connection, command: ProjectCommand) -> Result<()> {
    let client = connection.client()?;
    let (id, change, message) = match command {
        ProjectCommand::List => return list(&client, connection.json).await,
        ProjectCommand::Create { id, title, retention } => {
            let title = title.map(|title| title.parse()).transpose()?;
            let body = CreateProject { id: id.parse()?, title, retention };
            let done = client.post::<ProjectMade>(PROJECTS, &body).await?;
            return print_done(&done, &format!("created the project {id}"), connection.json);
        }
        ProjectCommand::Rename { id, title } => {
            let change = ChangeProject { title: Some(title.parse()?), ..ChangeProject::default() };
            let message = format!("{id} now has the title '{title}'");
            (id, change, message)
        }
        ProjectCommand::Set { id, retention } => {
            let message = match retention.days() {
                Some(days) => format!(
                    "new metrics of {id} are kept for {days} days; for Grafana, run `muster grafana export` again"
                ),
                None => format!("new metrics of {id} are kept as long as those of all projects"),
            };
            (id, ChangeProject { retention: Some(retention), ..ChangeProject::default() }, message)
        }
        ProjectCommand::Archive { id, confirm } => {
            confirm.confirm_one("archive", "project", &id)?;
            let message = format!("{id} is archived");
            (
                id,
                ChangeProject { status: Some(ProjectStatus::Archived), ..ChangeProject::default() },
                message,
            )
        }
        ProjectCommand::Restore { id } => {
            let message = format!("{id} is active again");
            (
                id,
                ChangeProject { status: Some(ProjectStatus::Active), ..ChangeProject::default() },
                message,
            )
        }
    };
    let path = format!("{PROJECTS}/{}", segment(&id));
    let done = client.patch::<WriteResult>(&path, &change).await?;
    print_done(&done, &message, connection.json)
}

fn print_done(done: &impl Serialize, message: &str, json: bool) -> Result<()> {
    if json {
        return output::json(done);
    }
    line(message);
    Ok(())
}

async fn list(client: &Client, json: bool) -> Result<()> {
    let projects = items::<Project>(client, PROJECTS, &[], json).await?;
    if json {
        return output::json(&projects);
    }
    let rows = projects
        .iter()
        .map(|project| {
            vec![
                text(&project.id),
                text(&project.title),
                text(&project.status),
                text(project.retention),
                text(project.position),
                text(project.created_at),
            ]
        })
        .collect();
    let header = ["id", "title", "status", "metrics kept", "events", "created"];
    table(&header, rows, "no projects");
    Ok(())
}
