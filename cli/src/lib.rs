//! The operator's binary: client commands, `muster serve`, `muster up`.
//!
//! It composes the roles and knows them all; none of them knows it. Nothing is decided here.

mod args;
mod client;
mod commands;
mod database_users;
mod environment;
mod exit;
mod otlp;
mod output;
mod serve;
mod up;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

pub use serve::openapi_document;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    // One crypto provider for all, chosen before the first handshake.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return exit::report(&anyhow::anyhow!("another crypto provider is installed already"));
    }
    if let Err(error) = environment::read_files() {
        return exit::report(&error);
    }
    let args = args::Args::parse();
    let exporter = args.otlp_url().map(otlp::Exporter::new).transpose();
    let (spans, exporter) = match exporter {
        Ok(exporter) => exporter.unzip(),
        Err(error) => return exit::report(&error),
    };
    start_logs(args.is_server(), spans);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            if let Some(exporter) = exporter {
                runtime.spawn(exporter.run());
            }
            let ended = runtime.block_on(args::run(args));
            runtime.shutdown_timeout(std::time::Duration::from_secs(2));
            ended
        }
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

/// Logs for a person on a terminal, JSON lines elsewhere; `RUST_LOG` chooses what.
fn start_logs(is_server: bool, spans: Option<otlp::Spans>) {
    // What becomes of the children, `muster up` tells itself.
    let default = if is_server { "warn,muster=info,muster_backing=error" } else { "error" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = if std::io::stderr().is_terminal() {
        logs.with_target(false).compact().with_filter(filter).boxed()
    } else {
        logs.json().with_filter(filter).boxed()
    };
    let only = Targets::new().with_target(muster_eventlog::traces::TARGET, LevelFilter::TRACE);
    let spans = spans.map(|spans| spans.with_filter(only));
    tracing_subscriber::registry().with(logs).with(spans).init();
}
