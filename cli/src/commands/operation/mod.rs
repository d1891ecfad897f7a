//! `muster operation`: requests to devices, and their results.

mod api;
mod follow;
mod requested;
mod show;

use anyhow::Result;
use clap::{Args, Subcommand};
use muster_api_types::WriteResult;
use muster_api_types::operations::OperationDetail;
use muster_api_types::runs::Run;
use muster_client::{Client, segment};

use super::confirm::{Action, Confirm};
use super::target::{filter_device, one_device};
use crate::connection::Connection;
use crate::output::{self, line, text};

use api::{OPERATIONS, path};
use follow::Stream;
pub(crate) use follow::{collect, follow, get_with_retry, is_over, wait_or_abort};
pub(crate) use requested::RequestedOperation;

#[derive(Subcommand, Debug)]
pub(crate) enum OperationCommand {
    /// List operations, newest first
    List {
        /// List only operations of this device: name, id, or a selector that matches one
        #[arg(long)]
        device: Option<String>,
        /// Maximum number of operations to list
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// List all operations
        #[arg(short, long, conflicts_with = "limit")]
        all: bool,
    },
    /// Show an operation: progress, grouped failures, slowest runs
    Show {
        /// Id of the operation
        id: String,
    },
    /// List the runs of an operation
    Runs {
        /// Id of the operation
        id: String,
        /// List only runs with these statuses, such as failed,timed_out
        #[arg(long)]
        status: Option<String>,
    },
    /// Print the output of a run; of a running one, live
    Output(OutputArgs),
    /// Explain why runs did not start or did not succeed
    Explain {
        /// Id of the operation
        id: String,
        /// Only for this device: name, id, or a selector that matches one
        device: Option<String>,
    },
    /// Wait for an operation, with output and exit code as `muster exec`
    Wait {
        /// Id of the operation
        id: String,
    },
    /// Pause an operation: start no further run
    Pause {
        /// Id of the operation
        id: String,
    },
    /// Resume a paused operation
    Resume {
        /// Id of the operation
        id: String,
    },
    /// Abort an operation: start no further run, and end running ones
    Abort {
        /// Id of the operation
        id: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Cancel one run
    Cancel {
        /// Id of the operation
        id: String,
        /// Name or id of the device, or a selector that matches one
        device: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Args, Debug)]
pub(crate) struct OutputArgs {
    /// Id of the operation
    id: String,
    /// Name or id of the device, or a selector that matches one; optional if the operation has one device
    device: Option<String>,
    /// Print standard error instead of standard output
    #[arg(long)]
    stderr: bool,
    /// Print the current output and exit
    #[arg(long)]
    no_follow: bool,
}

pub(crate) async fn run(connection: Connection, command: OperationCommand) -> Result<()> {
    let (client, json) = (connection.client()?, connection.json);
    match command {
        OperationCommand::List { device, limit, all } => {
            let device = filter_device(&client, device).await?;
            show::list(&client, device, (!all).then_some(limit), json).await
        }
        OperationCommand::Show { id } => show::one(&client, &id, json).await,
        OperationCommand::Runs { id, status } => show::runs(&client, &id, status, json).await,
        OperationCommand::Explain { id, device } => {
            let device = filter_device(&client, device).await?;
            show::explain(&client, &id, device, json).await
        }
        OperationCommand::Output(args) => {
            let device = match args.device {
                Some(device) => one_device(&client, device).await?,
                None => follow::only_device(&client, &args.id).await?,
            };
            let stream = if args.stderr { Stream::Stderr } else { Stream::Stdout };
            let source = follow::Source { id: &args.id, device: &device, stream, position: None };
            let mut stdout = std::io::stdout();
            let shown = follow::copy(&client, &source, !args.no_follow, &mut stdout).await?;
            let run = format!("{}/runs/{}", path(&args.id), segment(&device));
            follow::report_missing(&*client.get::<Run>(&run, &[]).await?, stream, shown);
            Ok(())
        }
        OperationCommand::Wait { id } => {
            let found = client.get::<OperationDetail>(&path(&id), &[]).await?;
            let requested =
                RequestedOperation { id, devices: found.operation.device_count, position: None };
            follow(&client, &requested, json).await
        }
        OperationCommand::Pause { id } => change(&client, &id, "pause", "paused", json).await,
        OperationCommand::Resume { id } => change(&client, &id, "resume", "resumed", json).await,
        OperationCommand::Abort { id, confirm } => {
            if !confirm.is_given() {
                confirm_abort(&client, &id, confirm).await?;
            }
            change(&client, &id, "abort", "aborted", json).await
        }
        OperationCommand::Cancel { id, device, confirm } => {
            confirm.confirm_one("end", "run", format!("{id} on {device}"))?;
            let device = one_device(&client, device).await?;
            let verb = format!("runs/{}/cancel", segment(&device));
            change(&client, &id, &verb, "cancellation requested", json).await
        }
    }
}

/// Lists the devices with running programs, which an abort interrupts.
async fn confirm_abort(client: &Client, id: &str, confirm: Confirm) -> Result<()> {
    let query = [("status", "dispatched,accepted,running".to_owned())];
    let runs = client.list::<Run>(&format!("{}/runs", path(id)), &query).await?;
    let names: Vec<String> = runs.iter().map(|run| text(&run.device)).collect();
    if names.is_empty() {
        return confirm.confirm_one("abort", "operation", id);
    }
    let verb = format!("abort operation {id}, which is running on");
    confirm.confirm(&Action { verb: &verb, noun: "device", names: &names })
}

async fn change(client: &Client, id: &str, verb: &str, summary: &str, json: bool) -> Result<()> {
    let done = client.post_empty::<WriteResult>(&format!("{}/{verb}", path(id))).await?;
    client.wait_until_listed(OPERATIONS, done.position).await;
    if json {
        return output::json(&done);
    }
    line(summary);
    Ok(())
}
