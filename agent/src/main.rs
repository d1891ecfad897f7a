//! The agent's binary: arguments, logging, signals and exit codes; one thread. Everything else is
//! in the library.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use muster_agent::{run_helper, subprocess};

fn main() -> ExitCode {
    subprocess::close_inherited();
    if std::env::args_os().nth(1).is_some_and(|word| word == subprocess::HELPER_ARGUMENT) {
        return run_helper();
    }
    run().unwrap_or_else(|error| {
        // The chain of causes on one line; a backtrace does not help those who operate devices. If
        // stderr is not writable, the exit code must suffice.
        let _ = writeln!(std::io::stderr(), "muster-agent: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    // Must precede the first handshake: with two crypto providers in one process, it would panic.
    // An error means that a provider is already installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // One thread serves everything; the others are for name lookups and the inventory, and end when
    // they are idle.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_stack_size(256 * 1024)
        .build()?;
    let outcome = runtime.block_on(cli::main());
    // A name lookup that hangs must not delay the exit.
    runtime.shutdown_background();
    outcome
}
