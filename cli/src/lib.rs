//! The operator's binary: client commands, `muster serve`, `muster up`.
//!
//! It composes the roles and knows them all; none of them knows it. Nothing is decided here.

mod args;
mod client;
mod commands;
mod environment;
mod exit;
mod output;
mod serve;
mod up;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

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
    start_logs(args.is_server());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
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
fn start_logs(is_server: bool) {
    // What becomes of the children, `muster up` tells itself.
    let default = if is_server { "warn,muster=info,muster_backing=error" } else { "error" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.with_target(false).compact().init();
    } else {
        logs.json().init();
    }
}
