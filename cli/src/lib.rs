//! The operator's program: the client's commands, and those of the server (`muster_server`).
//!
//! Invariant: what a client's command knows of a server, it knows from the API.

mod args;
mod arguments;
mod commands;
mod connection;
mod environment;
mod exit;
mod output;
mod terminal_modes;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use muster_server::log_limit::{self, Limited};
use muster_server::otlp;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    // One crypto provider for all crates, installed before the first handshake.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return exit::report(&anyhow::anyhow!("another crypto provider is installed already"));
    }
    if let Err(error) = environment::read_files() {
        return exit::report(&error);
    }
    let matches = args::Args::command().get_matches();
    if let Err(error) = arguments::refuse_secrets(&matches) {
        return exit::report(&error.into());
    }
    let args = match args::Args::from_arg_matches(&matches) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let exporter = args.otlp_url().map(otlp::Exporter::new).transpose();
    let (spans, exporter) = match exporter {
        Ok(exporter) => exporter.unzip(),
        Err(error) => return exit::report(&error),
    };
    let limit = log_limit::LogLimit::default();
    start_logs(args.is_server(), limit.clone(), spans);
    let is_server = args.is_server();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            if is_server {
                runtime.spawn(limit.report());
            }
            if let Some(exporter) = exporter {
                runtime.spawn(exporter.run());
            }
            let ended = runtime.block_on(args::run(args));
            runtime.shutdown_timeout(std::time::Duration::from_secs(2));
            ended
        }
        Err(error) => Err(anyhow::Error::new(error).context("failed to start the runtime")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

/// Logs text to a terminal, otherwise JSON lines; `RUST_LOG` sets the filter.
fn start_logs(is_server: bool, limit: log_limit::LogLimit, spans: Option<otlp::Spans>) {
    // `muster up` reports the state of its children itself.
    let default = if is_server { "warn,muster=info,muster_backing=error" } else { "error" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let is_terminal = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt::layer()
        .with_writer(log_limit::ShortLines { is_json: !is_terminal });
    let logs = if is_terminal {
        let logs = logs.with_target(false).compact();
        logs.map_event_format(|inner| Limited { inner, limit }).with_filter(filter).boxed()
    } else {
        let logs = logs.json().map_event_format(|inner| Limited { inner, limit });
        logs.with_filter(filter).boxed()
    };
    let only = Targets::new().with_target(muster_eventlog::traces::TARGET, LevelFilter::TRACE);
    let spans = spans.map(|spans| spans.with_filter(only));
    tracing_subscriber::registry().with(logs).with(spans).init();
}
