//! Requests to devices other than programs: restart, diagnostics, log level.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use muster_api_types::actions::{
    Action, DiagnosticsAction, LogLevelAction, RebootAction, RestartAgentAction,
};
use muster_api_types::operations::RequestOperation;

use crate::commands::confirm::{self, Confirm};
use crate::commands::exec::Limits;
use crate::commands::operation::{self, RequestedOperation};
use crate::commands::target::Selected;
use crate::connection::Connection;
use crate::exit::UsageError;
use crate::output::note;

#[derive(Subcommand, Debug)]
pub(crate) enum RequestCommand {
    /// Restart the agent
    RestartAgent(Common),
    /// Restart the machine
    Reboot(Common),
    /// Collect diagnostics of the device as a gzipped tar archive
    Diagnostics {
        #[command(flatten)]
        common: Common,
        /// File for the archive; default: NAME-diagnostics.tar.gz
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Set the agent's log level
    LogLevel {
        /// Level: error, warn, info, debug or trace
        level: String,
        #[command(flatten)]
        common: Common,
        /// Duration, after which the previous level is restored; default: permanent
        #[arg(long = "for", value_name = "TIME", value_parser = muster_schemas::units::parse_seconds)]
        seconds: Option<u32>,
    },
}

#[derive(clap::Args, Debug)]
pub(crate) struct Common {
    /// Names or ids (a,b), or a selector such as env=prod
    device: Option<String>,
    #[command(flatten)]
    selected: Selected,
    #[command(flatten)]
    limits: Limits,
    /// Print the operation's id and do not wait
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    confirm: Confirm,
}

pub(crate) async fn run(connection: Connection, command: RequestCommand) -> Result<()> {
    // The verb of the confirmation, for requests that always need one.
    let verb = match &command {
        RequestCommand::RestartAgent(_) => Some("restart the agent of"),
        RequestCommand::Reboot(_) => Some("reboot"),
        RequestCommand::Diagnostics { .. } | RequestCommand::LogLevel { .. } => None,
    };
    let (action, common, archive) = match command {
        RequestCommand::RestartAgent(common) => {
            (Action::RestartAgent(RestartAgentAction {}), common, None)
        }
        RequestCommand::Reboot(common) => (Action::Reboot(RebootAction {}), common, None),
        RequestCommand::Diagnostics { common, output } => {
            (Action::Diagnostics(DiagnosticsAction {}), common, Some(output))
        }
        RequestCommand::LogLevel { level, common, seconds } => {
            let change = LogLevelAction { level, duration_seconds: seconds };
            (Action::LogLevel(change), common, None)
        }
    };
    let target = common.selected.target_alone(common.device)?;
    let client = connection.client()?;
    match verb {
        Some(verb) if !common.confirm.is_given() => {
            let names = target.names(&client).await?;
            common.confirm.confirm(&confirm::Action { verb, noun: "device", names: &names })?;
        }
        Some(_) => {}
        None => common.confirm.confirm_many(&client, "send this request to", &target).await?,
    }
    let request = common.limits.request(&target, action);
    if let Some(output) = archive {
        let device = target.only(&client).await?;
        let path = output.unwrap_or_else(|| format!("{}-diagnostics.tar.gz", device.name).into());
        if path.exists() {
            let message = format!("{} exists already; choose another file with -o", path.display());
            return Err(UsageError(message).into());
        }
        return collect(&client, &request, &path).await;
    }
    let requested = RequestedOperation::new(&client, &request).await?;
    if common.detach {
        return requested.print(connection.json);
    }
    operation::follow(&client, &requested, connection.json).await
}

async fn collect(
    client: &muster_client::Client,
    request: &RequestOperation,
    path: &std::path::Path,
) -> Result<()> {
    let requested = RequestedOperation::new(client, request).await?;
    let bytes = operation::collect(client, &requested).await?;
    std::fs::write(path, &bytes).with_context(|| format!("failed to write {}", path.display()))?;
    note(format!("{} ({} bytes)", path.display(), bytes.len()));
    Ok(())
}
