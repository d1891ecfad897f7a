//! The command line: what is asked, and where the answer goes.

mod doctor;
mod enroll;
mod logs;
mod run;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// The device side of muster: enrolls this machine, reports what happens and what it measures, and
/// does what its project asks.
///
/// Everything that it knows is in one folder (--data), for its owner alone. Config variables that
/// are set for the device are written to `config.json` in it, for the applications on this machine.
#[derive(Debug, Parser)]
#[command(name = "muster-agent", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// The data folder: keys, outbox, state. One agent a folder.
    #[arg(
        long,
        global = true,
        env = "MUSTER_AGENT_DATA",
        default_value = "/var/lib/muster-agent",
        value_name = "DIR"
    )]
    data: PathBuf,
    /// What is logged, as tracing's filters: info, debug, `muster_agent=debug,async_nats=info`.
    #[arg(long, global = true, env = "MUSTER_LOG", value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Joins a project with an enrollment token.
    ///
    /// The token holds the pin of the server's CA: nothing else is trusted. When the answer is
    /// lost on its way, run it again with the same token: it is the same device.
    Enroll(enroll::EnrollArgs),
    /// Shows the fingerprint of the signing key, which is made now if there is none: for
    /// `muster device register NAME --fingerprint …` before the machine enrolls.
    Fingerprint,
    /// Runs the agent until it is stopped (SIGTERM or Ctrl-C).
    Run {
        /// Where the servers are now, when they have moved since the enrollment; it is kept. The
        /// pinned CA stays.
        #[arg(long, value_name = "https://HOST:PORT")]
        url: Option<url::Url>,
        /// What this device's owner lets the project do; a file that is not there allows all, one
        /// that is wrong allows nothing.
        #[arg(
            long,
            env = "MUSTER_AGENT_POLICY",
            default_value = muster_agent::operations::POLICY_FILE,
            value_name = "FILE"
        )]
        policy: PathBuf,
    },
    /// Says how the agent is: its identity, connection, outbox, last error.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Checks everything that the agent needs, and says what to do about what fails; exit code 1
    /// when something does.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Reads the command line and carries it out.
pub(crate) async fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let set_level =
        logs::start(cli.common.log.as_deref(), matches!(cli.command, Command::Run { .. }))?;
    let data = cli.common.data;
    match cli.command {
        Command::Enroll(args) => enroll::enroll(data, args).await,
        Command::Fingerprint => enroll::fingerprint(&data),
        Command::Run { url, policy } => run::run(data, url, policy, set_level).await,
        Command::Status { json } => status::status(&data, json).await,
        Command::Doctor { json } => doctor::doctor(&data, json).await,
    }
}
