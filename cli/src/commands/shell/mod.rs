//! `muster shell`: terminals on devices, detached sessions, recordings.

mod play;
mod session;
mod sessions;
mod terminal;

use anyhow::Result;
use clap::{Args, Subcommand};
use muster_api_types::sessions::SessionEndedResult;
use muster_client::segment;
use muster_schemas::units::parse_seconds;

use super::confirm::Confirm;
use super::target::{filter_device, one_device};
use super::wait::Wait;
use crate::connection::Connection;
use crate::exit::UsageError;
use crate::output::{line, text};

use sessions::find;
use terminal::EscapeCharacter;

/// Open a shell on a device
///
/// When the connection is lost, the session is kept on the device for the grace time, and the
/// client attaches again. Enter, ~ and . detach from it; Enter, ~ and ? list all escapes. Escapes
/// are recognized in typed input only, not in pasted text.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct ShellArgs {
    #[command(subcommand)]
    command: Option<ShellCommand>,
    /// Name or id of the device, or a selector that matches one
    #[arg(required = true)]
    device: Option<String>,
    /// User that runs the shell; default: the agent's user
    #[arg(short, long)]
    user: Option<String>,
    /// Grace time for which a detached session is kept
    #[arg(long, default_value = "10m", value_parser = parse_seconds)]
    grace: u32,
    /// Do not record the output (for admins)
    #[arg(long)]
    no_record: bool,
    /// Also record the input, including passwords
    #[arg(long, conflicts_with = "no_record")]
    record_input: bool,
    /// Character that starts an escape, such as % or ^B; none disables escapes
    #[arg(short, long, value_name = "CHARACTER", default_value = "~")]
    escape: EscapeCharacter,
    #[command(flatten)]
    wait: Wait,
    /// Line for the shell instead of an interactive session
    #[arg(last = true)]
    line: Vec<String>,
}

#[derive(Subcommand, Debug)]
enum ShellCommand {
    /// List sessions, newest first
    List {
        /// Include ended sessions
        #[arg(short, long)]
        all: bool,
        /// List only sessions of this device: name, id, or a selector that matches one
        #[arg(long)]
        device: Option<String>,
    },
    /// Attach to a session; several clients can be attached
    Attach {
        /// Id of the session
        id: String,
        /// Attach read-only
        #[arg(long)]
        watch: bool,
        /// Character that starts an escape, such as % or ^B; none disables escapes
        #[arg(short, long, value_name = "CHARACTER", default_value = "~")]
        escape: EscapeCharacter,
        #[command(flatten)]
        wait: Wait,
    },
    /// End a session
    End {
        /// Id of the session
        id: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Play a recording
    Play {
        /// Id of the session
        id: String,
        /// Playback speed
        #[arg(long, default_value_t = 1.0)]
        speed: f64,
        /// Maximum length of a pause, in seconds
        #[arg(long, default_value_t = 2.0)]
        idle: f64,
        /// Print the recording in its format, asciicast v2
        #[arg(long)]
        cast: bool,
    },
    /// Search recordings for text
    Search {
        /// Text to search for
        text: String,
        /// Search only recordings of this device: name, id, or a selector that matches one
        #[arg(long)]
        device: Option<String>,
    },
}

pub(crate) async fn run(connection: Connection, args: ShellArgs) -> Result<()> {
    let (client, json) = (connection.client()?, connection.json);
    match args.command {
        None => {}
        Some(ShellCommand::List { all, device }) => {
            let device = filter_device(&client, device).await?;
            return sessions::list(&client, all, device, json).await;
        }
        Some(ShellCommand::Attach { id, watch, escape, wait }) => {
            let session = find(&client, &id).await?;
            let target = session::SessionTarget {
                device: text(session.device.id),
                session: Some(id),
                is_read_only: watch,
                escape,
            };
            return session::run_shell(&client, target, Vec::new(), wait).await;
        }
        Some(ShellCommand::End { id, confirm }) => {
            let session = find(&client, &id).await?;
            let device = text(session.device.id);
            confirm.confirm_one("end", "session", format!("{id} on {}", session.device))?;
            let path =
                format!("/api/v1/devices/{}/sessions/{}/end", segment(&device), segment(&id));
            client.post_empty::<SessionEndedResult>(&path).await?;
            line("ended");
            return Ok(());
        }
        Some(ShellCommand::Play { id, speed, idle, cast }) => {
            return play::play(&client, &id, speed, idle, cast).await;
        }
        Some(ShellCommand::Search { text, device }) => {
            let device = filter_device(&client, device).await?;
            return play::search(&client, &text, device, json).await;
        }
    }
    let device = args.device.ok_or_else(|| UsageError("name a device".to_owned()))?;
    let device = one_device(&client, device).await?;
    let mut query = vec![("grace_seconds", args.grace.to_string())];
    query.extend(args.user.map(|user| ("user", user)));
    query.extend(args.no_record.then(|| ("record", "false".to_owned())));
    query.extend(args.record_input.then(|| ("record_input", "true".to_owned())));
    if !args.line.is_empty() {
        query.push(("command", args.line.join(" ")));
    }
    let target =
        session::SessionTarget { device, session: None, is_read_only: false, escape: args.escape };
    session::run_shell(&client, target, query, args.wait).await
}
