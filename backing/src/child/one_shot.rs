//! A program that is run to its end: initdb, a configuration check, a version query.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use thiserror::Error;

use super::process::{Launch, command};
use crate::run_as::RunAs;

/// A program that did not do its work.
#[derive(Debug, Error)]
pub enum OneShotError {
    /// The operating system would not start it.
    #[error("cannot start {name} ({})", program.display())]
    Spawn {
        /// What it is called.
        name: &'static str,
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{name} failed ({status}):\n{output}")]
    Failed {
        /// What it is called.
        name: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// It took too long, and goes on.
    #[error("{name} did not end within {} s", within.as_secs())]
    TooSlow {
        /// What it is called.
        name: &'static str,
        /// How long was waited.
        within: Duration,
    },
}

/// A program to run to its end.
pub(crate) struct OneShot {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) stdin: Option<File>,
    pub(crate) open_dir: Option<PathBuf>,
    pub(crate) run_as: Option<RunAs>,
    pub(crate) within: Duration,
}

impl OneShot {
    /// A program that needs nothing special and is quick.
    pub(crate) fn plain(name: &'static str, program: PathBuf, args: Vec<OsString>) -> Self {
        Self {
            name,
            program,
            args,
            stdin: None,
            open_dir: None,
            run_as: None,
            within: Duration::from_secs(20),
        }
    }

    /// Runs it, and gives what it printed to its standard output.
    pub(crate) async fn run(self) -> Result<String, OneShotError> {
        let Self { name, program, args, stdin, open_dir, run_as, within } = self;
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
            Ok(Ok(Ok(output))) => finished(name, output),
            Ok(Ok(Err(source))) => Err(OneShotError::Spawn { name, program, source }),
            Ok(Err(join)) => {
                Err(OneShotError::Spawn { name, program, source: io::Error::other(join) })
            }
            Err(_) => Err(OneShotError::TooSlow { name, within }),
        }
    }
}

fn finished(name: &'static str, output: Output) -> Result<String, OneShotError> {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let all = format!("{printed}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = all.lines().filter(|line| !line.trim().is_empty()).collect();
    let output_tail = lines[lines.len().saturating_sub(15)..].join("\n");
    Err(OneShotError::Failed { name, status: output.status, output: output_tail })
}
