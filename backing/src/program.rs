//! One of muster's own programs as a supervised child: no port to probe, ready when it keeps
//! running.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::child::{Check, ChildSpec, Restart};

/// Returns the specification that keeps `program` running, with `dir` for its lock, pid file and
/// logs.
#[must_use]
pub fn program(
    name: &'static str,
    program: PathBuf,
    args: Vec<OsString>,
    dir: PathBuf,
) -> ChildSpec {
    ChildSpec {
        name,
        program,
        args,
        listen_addresses: Vec::new(),
        dir,
        open_dir: None,
        run_as: None,
        variables: &[],
        stop_signal: Signal::SIGTERM,
        stop_timeout: Duration::from_secs(5),
        start_timeout: Duration::from_secs(10),
        restart: Restart::Always,
        check: Check::new(|| async { Ok(()) }),
        transient: &[],
        on_progress: None,
    }
}
