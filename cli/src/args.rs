//! The command line: what there is, and where it leads.

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use crate::client::Connection;
use crate::commands::{
    api_token, bootstrap, connect, context, cp, dead_letter, device, doctor, events, exec, grafana,
    health, metrics, operation, prepare, project, replay, shell, simulate, status, token, upload,
};
use crate::serve::ServeArgs;
use crate::up::UpArgs;

/// Manages fleets of Linux devices.
///
/// Exit codes: 0 done, 1 failed, 2 used wrongly, 3 not found, 4 not allowed, 5 unreachable
/// (the server, or a device that is offline), 6 in conflict with the present state.
#[derive(Parser, Debug)]
#[command(name = "muster", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the whole system on this machine
    Up(UpArgs),
    /// Run one role, or all of them, against servers that are there already
    Serve(Box<ServeArgs>),
    /// Make the first admin token of a server (needs its database and keys)
    Bootstrap(bootstrap::BootstrapArgs),
    /// Make keys, passwords and configuration for servers in containers (docker-compose.yml runs it)
    Prepare(prepare::PrepareArgs),
    /// Examine a server: what it needs, what is in its way, and what to do about it
    Doctor(doctor::DoctorArgs),
    /// Is a role ready? Exit code 0 when it is; for health checks
    Health(health::HealthArgs),
    /// Devices: list, show, register, rename, label, configure, delete
    #[command(subcommand, visible_alias = "devices")]
    Device(device::DeviceCommand),
    Exec(exec::ExecArgs),
    Shell(shell::ShellArgs),
    Cp(cp::CpArgs),
    Sftp(cp::SftpArgs),
    Connect(connect::ConnectArgs),
    Forward(connect::ForwardArgs),
    /// Operations, which is what was asked of devices: list, show, explain, pause, abort
    #[command(subcommand, visible_alias = "operations")]
    Operation(operation::OperationCommand),
    /// Files that are pulled from devices to the server: start, list, get, link, delete
    #[command(subcommand, visible_alias = "uploads")]
    Upload(upload::UploadCommand),
    /// The event log: all of it, or one device's life
    Events(events::EventsArgs),
    /// What a device measures
    Metrics(metrics::MetricsArgs),
    /// The fleet as it was at a position or time, from the log alone
    Replay(replay::ReplayArgs),
    /// Projects: create, list, rename, archive, restore
    #[command(subcommand, visible_alias = "projects")]
    Project(project::ProjectCommand),
    /// Enrollment tokens: let devices join
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// API tokens: let people and programs in
    #[command(subcommand)]
    ApiToken(api_token::ApiTokenCommand),
    /// Messages that could not be dealt with: list, show, retry
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetterCommand),
    /// The fleet and the server at a glance
    Status,
    /// Grafana: let it in, write its data sources, dashboards and alert rules, check rules
    #[command(subcommand)]
    Grafana(grafana::GrafanaCommand),
    /// Simulate devices, to see what a server holds
    Simulate(simulate::SimulateArgs),
    /// Servers that this command line knows
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Args {
    /// Where a server's spans go.
    pub(crate) fn otlp_url(&self) -> Option<&str> {
        match &self.command {
            Command::Up(up) => up.otlp.otlp_url.as_deref(),
            Command::Serve(serve) => serve.otlp.otlp_url.as_deref(),
            _ => None,
        }
    }

    /// Does it run a server, whose log is wanted?
    pub(crate) const fn is_server(&self) -> bool {
        matches!(self.command, Command::Up(_) | Command::Serve(_))
    }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let connection = args.connection;
    match args.command {
        Command::Up(up) => crate::up::run(up).await,
        Command::Serve(serve) => crate::serve::run_until_signal((*serve).try_into()?).await,
        Command::Bootstrap(command) => bootstrap::run(&connection, command).await,
        Command::Prepare(command) => prepare::run(&command),
        Command::Doctor(command) => doctor::run(&connection, command).await,
        Command::Health(command) => health::run(command).await,
        Command::Device(command) => device::run(connection, command).await,
        Command::Exec(command) => exec::run(connection, command).await,
        Command::Shell(command) => shell::run(connection, command).await,
        Command::Cp(command) => cp::cp(connection, command).await,
        Command::Sftp(command) => cp::sftp(connection, command).await,
        Command::Connect(command) => connect::connect(connection, command).await,
        Command::Forward(command) => connect::forwards(connection, command).await,
        Command::Operation(command) => operation::run(connection, command).await,
        Command::Upload(command) => upload::run(connection, command).await,
        Command::Events(command) => events::run(connection, command).await,
        Command::Metrics(command) => metrics::run(connection, command).await,
        Command::Replay(command) => replay::run(connection, command).await,
        Command::Project(command) => project::run(connection, command).await,
        Command::Token(command) => token::run(connection, command).await,
        Command::ApiToken(command) => api_token::run(connection, command).await,
        Command::DeadLetter(command) => dead_letter::run(connection, command).await,
        Command::Status => status::run(connection).await,
        Command::Grafana(command) => grafana::run(&connection, command).await,
        Command::Simulate(command) => simulate::run(connection, command).await,
        Command::Context(command) => context::run(&connection, command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "muster", &mut std::io::stdout());
            Ok(())
        }
    }
}
