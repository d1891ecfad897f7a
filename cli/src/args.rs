//! The command line: commands, options, and their dispatch.

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use muster_server::prepare::{self, PrepareArgs};
use muster_server::serve::{self, ServeArgs};
use muster_server::up::{self, UpArgs};

use crate::commands::{
    api_token, bootstrap, connect, context, cp, dead_letter, device, doctor, events, exec, grafana,
    health, metrics, operation, project, replay, selectors, shell, simulate, status, token, upload,
};
use crate::connection::Connection;

/// Manage fleets of Linux devices
///
/// Exit codes: 0 success, 1 failure, 2 usage error, 3 not found, 4 permission denied, 5 unreachable
/// (the server, or an offline device), 6 conflict with the current state.
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
    /// Run one role, or all roles, with existing backing servers
    Serve(Box<ServeArgs>),
    /// Create the first admin token (needs the server's database and keys)
    Bootstrap(bootstrap::BootstrapArgs),
    /// Create keys, passwords and configuration for docker-compose.yml
    Prepare(PrepareArgs),
    /// Check a server and its dependencies, and suggest fixes
    Doctor(doctor::DoctorArgs),
    /// Check whether a role is ready (exit code 0); for health checks
    Health(health::HealthArgs),
    /// Manage devices: list, register, label, configure, delete …
    #[command(subcommand, visible_alias = "devices")]
    Device(device::DeviceCommand),
    Exec(exec::ExecArgs),
    Shell(shell::ShellArgs),
    Cp(cp::CpArgs),
    Sftp(cp::SftpArgs),
    Connect(connect::ConnectArgs),
    Forward(connect::ForwardArgs),
    /// Manage operations on devices: list, show, explain, abort …
    #[command(subcommand, visible_alias = "operations")]
    Operation(operation::OperationCommand),
    /// Upload files from devices to the server, and download them
    #[command(subcommand, visible_alias = "uploads")]
    Upload(upload::UploadCommand),
    /// Show the event log, or the events of a device
    Events(events::EventsArgs),
    /// Show the metrics of devices
    Metrics(metrics::MetricsArgs),
    /// Show the fleet at an earlier position or time
    Replay(replay::ReplayArgs),
    /// Manage projects: create, list, rename, archive, restore …
    #[command(subcommand, visible_alias = "projects")]
    Project(project::ProjectCommand),
    /// Manage enrollment tokens: create, list, show, revoke
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Manage API tokens for users and programs: create, list, revoke
    #[command(subcommand)]
    ApiToken(api_token::ApiTokenCommand),
    /// List, show and retry dead letters (unprocessable messages)
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetterCommand),
    /// Show a summary of the fleet and the server
    Status,
    /// Set up Grafana: access, data sources, dashboards, alert rules
    #[command(subcommand)]
    Grafana(grafana::GrafanaCommand),
    /// Simulate devices, to measure a server's capacity
    Simulate(simulate::SimulateArgs),
    /// Manage contexts, the stored servers: list, use, add, remove
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Explain selectors, which choose devices by labels, fields and metrics
    #[command(override_help = selectors::PAGE)]
    Selectors,
    /// Print the completion script of a shell
    Completions {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
}

impl Args {
    /// Returns the URL of the OpenTelemetry collector.
    pub(crate) fn otlp_url(&self) -> Option<&str> {
        match &self.command {
            Command::Up(up) => up.otlp.otlp_url.as_deref(),
            Command::Serve(serve) => serve.otlp.otlp_url.as_deref(),
            _ => None,
        }
    }

    /// Whether the command runs a server, whose log is written.
    pub(crate) const fn is_server(&self) -> bool {
        matches!(self.command, Command::Up(_) | Command::Serve(_))
    }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let connection = args.connection;
    match args.command {
        Command::Up(up) => up::run(up).await,
        Command::Serve(serve) => Box::pin(serve::run_until_signal((*serve).try_into()?)).await,
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
        Command::Selectors => {
            selectors::run();
            Ok(())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "muster", &mut std::io::stdout());
            Ok(())
        }
    }
}
