//! `muster cp`: files and folders between this machine and a device; `muster sftp`: the same for
//! OpenSSH's `sftp`.
//!
//! | file | is |
//! |---|---|
//! | `place` | what is written on the command line |
//! | `link` | the device's files: a session that is made anew when it is lost |
//! | `tree` | what there is to copy, on either side |
//! | `blocks` | a file is copied and compared block by block, and goes on where it was |
//! | `fetch`, `send` | one file, one folder: from the device, to the device |
//! | `pace`, `progress` | not faster than allowed; how far it is |

mod blocks;
mod fetch;
mod link;
mod pace;
mod place;
mod progress;
mod send;
mod tree;

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use futures::{StreamExt, TryStreamExt};

use self::link::Link;
use self::pace::Pace;
use self::place::Place;
use self::progress::Progress;
use super::bytes;
use super::connect::carry;
use crate::client::{Client, Connection, segment};
use crate::commands::wait::Wait;
use crate::exit::{Misused, Partly};
use crate::output::note;

/// Copy files and folders to a device, or from it
///
///   muster cp robot-7:/var/log/app ./logs
///   muster cp firmware.bin config/ robot-7:/opt/app/
///   muster cp --limit 500KiB robot-7:recording.bag .
///
/// What was broken off goes on where it was when the same command is given again. Each file is
/// compared with its original; until it is whole, it is called NAME.muster-part. Files that are
/// there already, with the same size and time, are left as they are. Holes of sparse files stay
/// holes. A file whose name is not UTF-8 is named as a failure and stops no other.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment, override_usage = "muster cp [OPTIONS] SOURCE... TARGET")]
pub(crate) struct CpArgs {
    /// What to copy, then where to: paths here, or DEVICE:PATH
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    paths: Vec<String>,
    /// How many files at once
    #[arg(short, long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    jobs: u8,
    /// At most so many bytes in a second, such as 500KiB
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    limit: Option<u64>,
    /// Copy files, too, that are there already with the same size and time
    #[arg(long)]
    again: bool,
    /// Keep set-user-id, set-group-id and sticky bits of what a device sends
    ///
    /// Without it they are left out: the device does not decide which programs of this machine run
    /// as another user.
    #[arg(long)]
    preserve_special: bool,
    #[command(flatten)]
    wait: Wait,
}

/// Speak SFTP with a device, on standard input and output
///
/// For OpenSSH's own client:
///
///   sftp -D 'muster sftp robot-7'
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct SftpArgs {
    /// Name or id of a device
    device: String,
    /// The file or folder that can be reached
    #[arg(default_value = "/")]
    path: String,
    /// Nothing can be changed
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    wait: Wait,
}

/// What is copied, and how.
#[derive(Debug)]
struct Work {
    link: Arc<Link>,
    pace: Pace,
    progress: Progress,
    jobs: usize,
    again: bool,
    preserve_special: bool,
}

/// The path of the API that leads to a device's files.
fn files(device: &str) -> String {
    format!("/api/v1/devices/{}/files", segment(device))
}

pub(crate) async fn sftp(connection: Connection, args: SftpArgs) -> Result<()> {
    let client = connection.client()?;
    let query = [("path", args.path), ("write", (!args.read_only).to_string())];
    let path = files(&args.device);
    let socket = args.wait.until_online(async || client.socket(&path, &query).await).await?;
    carry(socket, tokio::io::stdin(), tokio::io::stdout()).await?;
    // A thread still waits for input, and would hold the program.
    std::process::exit(0);
}

pub(crate) async fn cp(connection: Connection, args: CpArgs) -> Result<()> {
    let mut places: Vec<Place> = Vec::new();
    for path in &args.paths {
        places.push(Place::read(path)?);
    }
    let Some((target, sources)) = places.split_last() else {
        bail!(Misused("nothing to copy is named".to_owned()));
    };
    let client = connection.client()?;
    let json = connection.json;
    let copied = tokio::select! {
        copied = copy(&client, &args, sources, target, json) => copied,
        _ = tokio::signal::ctrl_c() => {
            note("stopped; the same command goes on where it was");
            std::process::exit(130);
        }
    };
    copied
}

async fn copy(
    client: &Client,
    args: &CpArgs,
    sources: &[Place],
    target: &Place,
    json: bool,
) -> Result<()> {
    let pace = Pace::new(args.limit);
    let progress = Progress::new();
    let work = |link| Work {
        link: Arc::new(link),
        pace: pace.clone(),
        progress: progress.clone(),
        jobs: args.jobs.into(),
        again: args.again,
        preserve_special: args.preserve_special,
    };
    let mut done = Vec::new();
    match target {
        Place::Device { device, path } => {
            let mut here = Vec::new();
            for source in sources {
                let Place::Here(path) = source else {
                    let words = "from device to device it goes through this machine: copy it here, \
                                 then there";
                    bail!(Misused(words.to_owned()));
                };
                here.push(path.as_path());
            }
            let open = async || Link::open(client, device, path, true).await;
            let work = work(args.wait.until_online(open).await?);
            done.extend(send::all(&work, &here, path).await?);
        }
        Place::Here(target) => {
            for source in sources {
                let Place::Device { device, path } = source else {
                    let words = "nothing of this is on a device; a device's path is DEVICE:PATH";
                    bail!(Misused(words.to_owned()));
                };
                let open = async || Link::open(client, device, path, false).await;
                let work = work(args.wait.until_online(open).await?);
                done.extend(fetch::all(&work, path, target, sources.len() > 1).await?);
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
        failed => Err(Partly { failed, of: done.len(), code: 1 }.into()),
    }
}

/// One file is there now, or why not.
type Done = Result<progress::Copied>;

impl Work {
    /// Copies each of these, several at once. One that cannot be copied stops no other.
    async fn each<T, F>(&self, all: Vec<T>, one: impl Fn(T) -> F) -> Result<Vec<Done>>
    where
        F: Future<Output = Done>,
    {
        let one = &one;
        let copied = futures::stream::iter(all)
            .map(|what| async move { Ok::<_, anyhow::Error>(one(what).await) })
            .buffer_unordered(self.jobs);
        copied.try_collect().await
    }
}
