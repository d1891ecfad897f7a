//! `muster cp`: copies files and folders between this machine and a device. `muster sftp`: the same
//! for OpenSSH's `sftp`.
//!
//! | file | content |
//! |---|---|
//! | `location` | source and target arguments |
//! | `link` | session for a device's files, which reconnects when it is lost |
//! | `tree` | list of the files to copy, on either side |
//! | `blocks` | copying and comparing a file block by block; resuming a partial copy |
//! | `fetch`, `send` | one file or folder: from the device, to the device |
//! | `job` | options and state of a copy, shared by its files |
//! | `rate_limit`, `progress` | rate limit; progress and result of a file |

mod blocks;
mod fetch;
mod job;
mod link;
mod location;
mod progress;
mod rate_limit;
mod send;
mod tree;

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use muster_client::Client;
use muster_schemas::units::parse_bytes;

use self::job::CopyJob;
use self::link::{Link, files};
use self::location::Location;
use self::progress::Progress;
use self::rate_limit::RateLimit;
use super::connect::transfer;
use crate::commands::target::one_device;
use crate::commands::wait::Wait;
use crate::connection::Connection;
use crate::exit::{PartialFailure, UsageError};
use crate::output::note;

/// Copy files and folders to or from a device
///
///   muster cp robot-7:/var/log/app ./logs
///   muster cp firmware.bin config/ robot-7:/opt/app/
///   muster cp --limit 500KiB robot-7:recording.bag .
///
/// An interrupted copy resumes when the same command is run again. Each file is
/// compared with its original; until it is complete, it is named
/// NAME.muster-part. Files that exist with the same size and time are skipped.
/// Holes of sparse files are preserved. A file whose name is not UTF-8 is
/// reported as a failure and does not stop the others.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment, override_usage = "muster cp [OPTIONS] SOURCE... TARGET")]
pub(crate) struct CpArgs {
    /// Sources, then the target: local paths, or DEVICE:PATH
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    paths: Vec<String>,
    /// Maximum number of files copied concurrently
    #[arg(short, long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    jobs: u8,
    /// Maximum bytes per second, such as 500KiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    limit: Option<u64>,
    /// Copy files that exist with the same size and time, too
    #[arg(long)]
    again: bool,
    /// Keep set-user-id, set-group-id and sticky bits of files from a device
    ///
    /// By default they are removed, because a device must not decide which programs of this machine
    /// run as another user.
    #[arg(long)]
    preserve_special: bool,
    #[command(flatten)]
    wait: Wait,
}

/// Connect standard input and output to a device's SFTP server
///
/// For OpenSSH's client:
///
///   sftp -D 'muster sftp robot-7'
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct SftpArgs {
    /// Name or id of the device, or a selector that matches one
    device: String,
    /// File or folder that can be accessed
    #[arg(default_value = "/")]
    path: String,
    /// Allow read access only
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    wait: Wait,
}

pub(crate) async fn sftp(connection: Connection, args: SftpArgs) -> Result<()> {
    let client = connection.client()?;
    let query = [("path", args.path), ("writable", (!args.read_only).to_string())];
    let path = files(&one_device(&client, args.device).await?);
    let socket = args.wait.until_online(async || client.socket(&path, &query).await).await?;
    transfer(socket, tokio::io::stdin(), tokio::io::stdout()).await?;
    // A thread is blocked on input and would keep the process running.
    std::process::exit(0);
}

pub(crate) async fn cp(connection: Connection, args: CpArgs) -> Result<()> {
    let mut places: Vec<Location> = Vec::new();
    for path in &args.paths {
        places.push(Location::parse(path)?);
    }
    let client = connection.client()?;
    for place in &mut places {
        if let Location::Device { device, .. } = place {
            *device = one_device(&client, std::mem::take(device)).await?;
        }
    }
    let Some((target, sources)) = places.split_last() else {
        bail!(UsageError("no source is given".to_owned()));
    };
    let json = connection.json;
    let copied = tokio::select! {
        copied = copy(&client, &args, sources, target, json) => copied,
        _ = tokio::signal::ctrl_c() => {
            note("stopped; the same command continues where it stopped");
            std::process::exit(130);
        }
    };
    copied
}

async fn copy(
    client: &Client,
    args: &CpArgs,
    sources: &[Location],
    target: &Location,
    json: bool,
) -> Result<()> {
    let pace = RateLimit::new(args.limit);
    let progress = Progress::new();
    let work = |link| CopyJob {
        link: Arc::new(link),
        rate_limit: pace.clone(),
        progress: progress.clone(),
        jobs: args.jobs.into(),
        again: args.again,
        preserve_special: args.preserve_special,
    };
    let mut done = Vec::new();
    match target {
        Location::Device { device, path } => {
            let mut here = Vec::new();
            for source in sources {
                let Location::Local(path) = source else {
                    let message =
                        "copying between devices goes through this machine: copy to it first";
                    bail!(UsageError(message.to_owned()));
                };
                here.push(path.as_path());
            }
            let open = async || Link::open(client, device, path, true).await;
            let work = work(args.wait.until_online(open).await?);
            done.extend(send::send_all(&work, &here, path).await?);
        }
        Location::Local(target) => {
            for source in sources {
                let Location::Device { device, path } = source else {
                    let message = "no path is on a device; write a path on a device as DEVICE:PATH";
                    bail!(UsageError(message.to_owned()));
                };
                let open = async || Link::open(client, device, path, false).await;
                let work = work(args.wait.until_online(open).await?);
                done.extend(fetch::fetch_all(&work, path, target, sources.len() > 1).await?);
            }
        }
    }
    progress.end(&done, json)?;
    let failed = done.iter().filter(|copied| copied.is_err()).count();
    for problem in done.iter().filter_map(|copied| copied.as_ref().err()) {
        note(format!("{problem:#}"));
    }
    match failed {
        0 => Ok(()),
        failed => Err(PartialFailure { failed, total: done.len(), code: 1 }.into()),
    }
}
