//! The command line: arguments, and the dispatch to the commands.

mod doctor;
mod enroll;
mod logs;
mod run;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// The device agent of muster: enrolls this machine, reports events and metrics, and executes the
/// operations of its project
///
/// All state is in one folder (--data), which only its owner can read. Config variables that are
/// set for the device are written to `config.json` in that folder, for the applications on this
/// machine.
#[derive(Debug, Parser)]
#[command(name = "muster-agent", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Arguments of all commands.
#[derive(Debug, Args)]
struct Common {
    /// Data folder with keys, outbox and state; each agent needs its own
    #[arg(
        long,
        global = true,
        env = "MUSTER_AGENT_DATA",
        default_value = "/var/lib/muster-agent",
        value_name = "DIR"
    )]
    data: PathBuf,
    /// Log levels: info, debug, `muster_agent=debug,async_nats=info`
    #[arg(long, global = true, env = "MUSTER_LOG", value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a project with an enrollment token
    ///
    /// The token contains the pin of the server's CA: no other CA is trusted. If the response is
    /// lost, run the command again with the same token: the machine remains the same device.
    Enroll(enroll::EnrollArgs),
    /// Show the fingerprint of the signing key
    ///
    /// The key is created if it does not exist. Register the fingerprint with `muster device
    /// register NAME --fingerprint …` before the machine enrolls.
    Fingerprint,
    /// Run the agent until it is stopped (SIGTERM or Ctrl-C)
    Run {
        /// New address of the servers, if it has changed since the enrollment
        ///
        /// The agent stores the address. The pinned CA does not change.
        #[arg(long, value_name = "https://HOST:PORT")]
        url: Option<url::Url>,
        /// Policy file of the device's owner: what the project may do on this device
        ///
        /// A missing file allows everything; an invalid file allows nothing.
        #[arg(
            long,
            env = "MUSTER_AGENT_POLICY",
            default_value = muster_agent::policy::POLICY_FILE,
            value_name = "FILE"
        )]
        policy: PathBuf,
    },
    /// Show the agent's status: identity, connection, outbox, last error
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check everything that the agent needs, and suggest a fix for each failed check
    ///
    /// The exit code is 1 if a check failed.
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Parses the command line and runs the command.
pub(crate) async fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let set_level =
        logs::start(cli.common.log.as_deref(), matches!(cli.command, Command::Run { .. }))?;
    let data = cli.common.data;
    match cli.command {
        Command::Enroll(args) => enroll::enroll(data, args).await,
        Command::Fingerprint => enroll::fingerprint(&data),
        Command::Run { url, policy } => Box::pin(run::run(data, url, policy, set_level)).await,
        Command::Status { json } => status::status(&data, json).await,
        Command::Doctor { json } => doctor::doctor(&data, json).await,
    }
}
