//! A program that runs to its end: initdb, a configuration check, a version query.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use thiserror::Error;

use super::process::{Launch, command};
use crate::run_as::RunAs;

/// The reason why a program failed.
#[derive(Debug, Error)]
pub enum OneShotError {
    /// The operating system could not start it.
    #[error("failed to start {name} ({})", program.display())]
    Spawn {
        /// Name of the program.
        name: &'static str,
        /// Path of the program.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{name} failed ({status}):\n{output}")]
    Failed {
        /// Name of the program.
        name: &'static str,
        /// Exit status.
        status: std::process::ExitStatus,
        /// The end of its output.
        output: String,
    },
    /// It took too long, and is still running.
    #[error("{name} did not end within {} s", within.as_secs())]
    TimedOut {
        /// Name of the program.
        name: &'static str,
        /// The timeout.
        within: Duration,
    },
}

/// A program that runs to its end.
pub(crate) struct OneShot {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) stdin: Option<File>,
    pub(crate) open_dir: Option<PathBuf>,
    pub(crate) run_as: Option<RunAs>,
    pub(crate) timeout: Duration,
}

impl OneShot {
    /// A program without special requirements that ends quickly.
    pub(crate) fn new(name: &'static str, program: PathBuf, args: Vec<OsString>) -> Self {
        Self {
            name,
            program,
            args,
            stdin: None,
            open_dir: None,
            run_as: None,
            timeout: Duration::from_secs(20),
        }
    }

    /// Runs it and returns its standard output.
    pub(crate) async fn run(self) -> Result<String, OneShotError> {
        let Self { name, program, args, stdin, open_dir, run_as, timeout: within } = self;
        let launch = Launch {
            program: &program,
            args: &args,
            home: None,
            open_dir: open_dir.as_deref(),
            run_as: run_as.as_ref(),
            variables: &[],
            death_signal: nix::sys::signal::Signal::SIGKILL,
        };
        let mut command = command(&launch).map_err(|source| OneShotError::Spawn {
            name,
            program: program.clone(),
            source,
        })?;
        command.stdin(stdin.map_or_else(Stdio::null, Stdio::from));
        let running = tokio::task::spawn_blocking(move || command.output());
        match tokio::time::timeout(within, running).await {
            Ok(Ok(Ok(output))) => check_output(name, &output),
            Ok(Ok(Err(source))) => Err(OneShotError::Spawn { name, program, source }),
            Ok(Err(join)) => {
                Err(OneShotError::Spawn { name, program, source: io::Error::other(join) })
            }
            Err(_) => Err(OneShotError::TimedOut { name, within }),
        }
    }
}

fn check_output(name: &'static str, output: &Output) -> Result<String, OneShotError> {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let all = format!("{printed}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = all.lines().filter(|line| !line.trim().is_empty()).collect();
    let output_tail = lines[lines.len().saturating_sub(15)..].join("\n");
    Err(OneShotError::Failed { name, status: output.status, output: output_tail })
}
