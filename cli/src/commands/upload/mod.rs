//! `muster upload`: uploads files from devices to the server, which stores them.

mod api;
mod follow;
mod get;
mod show;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use muster_api_types::WriteResult;
use muster_api_types::actions::{Action, UploadAction};
use muster_api_types::operations::RequestOperation;
use muster_api_types::uploads::{CreateDownloadLink, DownloadLink, Upload};
use muster_client::{Client, Received, segment};
use muster_schemas::units::{parse_bytes, parse_seconds};

use super::exec::operation_target;
use super::operation::RequestedOperation;
use super::target::{Selected, filter_device, one_device};
use crate::commands::confirm::Confirm;
use crate::connection::Connection;
use crate::exit::{NotFound, UsageError};
use crate::output::{self, line, text};

use api::UPLOADS;

#[derive(Subcommand, Debug)]
pub(crate) enum UploadCommand {
    /// Upload a file, or a folder as a tar.gz, to the server
    ///
    /// An offline device starts the upload when it reconnects; an upload resumes
    /// after a lost connection.
    ///
    ///   muster upload start robot-7 /var/log/app.log
    ///   muster upload start env=dev /var/log/app --keep 30d --replace --limit 1MiB
    #[command(verbatim_doc_comment)]
    Start(StartArgs),
    /// List uploads, newest first
    List {
        /// List only uploads of this device: name, id, or a selector that matches one
        #[arg(long)]
        device: Option<String>,
        /// List only uploads with these statuses, such as sending,stored
        #[arg(long)]
        status: Option<String>,
        /// List only uploads of this path, as it was requested
        #[arg(long)]
        path: Option<String>,
        /// Maximum number of uploads to list
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// List all uploads
        #[arg(short, long, conflicts_with = "limit")]
        all: bool,
    },
    /// Show an upload: its progress, and the reason of a failure
    Show(UploadArgs),
    /// Copy a stored file to this machine, and verify its hash
    Get {
        #[command(flatten)]
        one: UploadArgs,
        /// Target file, - for standard output; default: its name
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Create a download link for a stored file, valid without a token
    Link {
        #[command(flatten)]
        one: UploadArgs,
        /// Lifetime of the link; at most 7 days
        #[arg(long, default_value = "1d", value_parser = parse_seconds)]
        expires: u32,
    },
    /// Cancel an unfinished upload
    Cancel {
        #[command(flatten)]
        one: UploadArgs,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Delete a stored file and invalidate its links
    Delete {
        #[command(flatten)]
        one: UploadArgs,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    /// Names or ids (a,b), or a selector such as env=prod
    device: Option<String>,
    /// Path on the device: absolute, or relative to the agent user's home
    path: Vec<String>,
    #[command(flatten)]
    selected: Selected,
    /// Remove the file from the device after the upload; not for folders
    #[arg(long)]
    remove_source: bool,
    /// Delete earlier uploads of the same path when this one is stored
    #[arg(long)]
    replace: bool,
    /// Time after which the stored copy is deleted; default: kept until deleted
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    keep: Option<u32>,
    /// Maximum size of the upload; at most 64GiB
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes)]
    max_size: u64,
    /// Maximum bytes per second
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    limit: Option<u64>,
    /// Time limit of an upload; at most 30 days
    #[arg(long, default_value = "1d", value_parser = parse_seconds)]
    timeout: u32,
    /// Time for which an offline device can still receive the request
    #[arg(long, default_value = "7d", value_parser = parse_seconds)]
    expires: u32,
    /// Maximum number of devices that upload concurrently
    #[arg(long, default_value_t = 100, value_name = "N")]
    at_once: u32,
    /// Print the operation's id and do not wait
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    confirm: Confirm,
}

/// An upload: an operation, and one of its devices.
#[derive(Args, Debug)]
pub(crate) struct UploadArgs {
    /// Id of the operation
    id: String,
    /// Name or id of the device, or a selector that matches one; optional if the operation has one device
    device: Option<String>,
}

impl UploadArgs {
    fn confirm(&self, confirm: Confirm, verb: &str) -> Result<()> {
        let name = match &self.device {
            Some(device) => format!("{} of {device}", self.id),
            None => self.id.clone(),
        };
        confirm.confirm_one(verb, "upload", name)
    }

    /// Returns its path in the API.
    async fn path(&self, client: &Client) -> Result<String> {
        let device = self.device(client).await?;
        Ok(format!("{UPLOADS}/{}/{}", segment(&self.id), segment(&device)))
    }

    async fn device(&self, client: &Client) -> Result<String> {
        if let Some(device) = &self.device {
            return one_device(client, device.clone()).await;
        }
        let query = [("operation", self.id.clone())];
        let (uploads, _) = client.first::<Upload>(UPLOADS, &query, 2).await?;
        match uploads.as_slice() {
            [one] => Ok(text(one.device.id)),
            [] => Err(NotFound(format!("there is no upload {}", self.id)).into()),
            _ => {
                let message = "the upload is for several devices; name one: muster operation runs ";
                Err(UsageError(format!("{message}{}", self.id)).into())
            }
        }
    }
}

pub(crate) async fn run(connection: Connection, command: UploadCommand) -> Result<()> {
    let (client, json) = (connection.client()?, connection.json);
    match command {
        UploadCommand::Start(args) => start(&client, args, json).await,
        UploadCommand::List { device, status, path, limit, all } => {
            let device = filter_device(&client, device).await?;
            let named = [("device", device), ("status", status), ("path", path)];
            let query: Vec<_> =
                named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            show::list(&client, &query, (!all).then_some(limit), json).await
        }
        UploadCommand::Show(one) => show::one(&client, &one.path(&client).await?, json).await,
        UploadCommand::Get { one, output } => {
            get::get(&client, &one.path(&client).await?, output, json).await
        }
        UploadCommand::Link { one, expires } => {
            let path = format!("{}/link", one.path(&client).await?);
            let body = CreateDownloadLink { expires_in_seconds: expires };
            let made = client.post::<DownloadLink>(&path, &body).await?;
            let url = format!("{}{}", client.url(), text(&made.url));
            if json {
                return output::json(&made.with_field("url", url));
            }
            line(url);
            output::note(format!("valid until {}", made.expires_at));
            Ok(())
        }
        UploadCommand::Cancel { one, confirm } => {
            one.confirm(confirm, "cancel")?;
            let device = one.device(&client).await?;
            let (id, device) = (segment(&one.id), segment(&device));
            let path = format!("/api/v1/operations/{id}/runs/{device}/cancel");
            let done = client.post_empty(&path).await?;
            print_done(&client, &done, "cancellation requested", json).await
        }
        UploadCommand::Delete { one, confirm } => {
            one.confirm(confirm, "delete the stored file of")?;
            let done = client.delete(&one.path(&client).await?).await?;
            print_done(&client, &done, "erased", json).await
        }
    }
}

async fn print_done(
    client: &Client,
    done: &Received<WriteResult>,
    done_message: &str,
    json: bool,
) -> Result<()> {
    client.wait_until_listed(UPLOADS, done.position).await;
    if json {
        return output::json(done);
    }
    line(done_message);
    Ok(())
}

async fn start(client: &Client, args: StartArgs, json: bool) -> Result<()> {
    let mut rest = args.path.clone();
    let target = args.selected.target(args.device, &mut rest)?;
    let [path] = rest.as_slice() else {
        let message = "name one path on the device: muster upload start DEVICE PATH";
        return Err(UsageError(message.to_owned()).into());
    };
    let action = Action::Upload(UploadAction {
        path: path.clone(),
        remove_source: args.remove_source,
        replace: args.replace,
        expires_in_seconds: args.keep,
        max_bytes: Some(args.max_size),
        max_bytes_per_second: args.limit,
    });
    args.confirm.confirm_many(client, "pull a file from", &target).await?;
    let request = RequestOperation {
        target: operation_target(&target),
        action,
        timeout_seconds: Some(args.timeout),
        expires_in_seconds: args.expires,
        max_concurrent_devices: args.at_once,
        max_failures: None,
    };
    let requested = RequestedOperation::new(client, &request).await?;
    if args.detach {
        return requested.print(json);
    }
    follow::follow(client, &requested, json).await
}
