//! The agent's binary: one thread, a handful of commands.
//!
//! All that it does is in the library; here are arguments, logs, signals and exit codes.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use muster_agent::subprocess;

fn main() -> ExitCode {
    subprocess::close_inherited();
    if std::env::args_os().nth(1).is_some_and(|word| word == subprocess::HELPER_ARGUMENT) {
        return subprocess::run_helper();
    }
    run().unwrap_or_else(|error| {
        // The causes in one line; a backtrace is nothing for those who operate devices. With
        // nowhere to write, the exit code has to say it.
        let _ = writeln!(std::io::stderr(), "muster-agent: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    // Before the first handshake: two crypto providers in one process would panic there. An error
    // means that one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // One thread serves everything; the others are for name lookups and the inventory, and end
    // when they are idle.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_stack_size(256 * 1024)
        .build()?;
    let outcome = runtime.block_on(cli::main());
    // A name lookup that hangs must not hold up the stop.
    runtime.shutdown_background();
    outcome
}
