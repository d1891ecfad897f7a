//! One operating system process, from spawn to reaping.
//!
//! Each process has its own thread, which spawns it and then waits for it. The thread lives as long
//! as the process does, so the kernel's parent-death signal, which is bound to the *thread* that
//! spawned, is sent only when the whole parent process has ended.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child as OsChild, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::error::ChildError;
use super::exit::Exit;
use super::process_tree;
use super::spec::ChildSpec;
use crate::run_as::RunAs;

/// Variables that a server inherits. All others are removed: `PGPORT`, `INFLUXDB_*` and similar
/// ones would silently override the configuration.
const INHERITED_VARIABLES: [&str; 4] = ["PATH", "TZ", "TMPDIR", "LD_LIBRARY_PATH"];

/// A running process. Dropping it requests its end without waiting.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    stop_signal: Signal,
    /// Offset in the log at which this process's output starts.
    pub(crate) log_offset: u64,
    /// Invariant: signals are sent under this lock and only while `true`; the waiting thread reaps
    /// under it. So no signal can reach another process with the same pid.
    is_alive: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    pub(crate) fn spawn(spec: &ChildSpec, log: File, log_offset: u64) -> Result<Self, ChildError> {
        let spawn_error =
            |source| ChildError::Spawn { name: spec.name, program: spec.program.clone(), source };
        let launch = Launch {
            program: &spec.program,
            args: &spec.args,
            home: Some(&spec.dir),
            open_dir: spec.open_dir.as_deref(),
            run_as: spec.run_as.as_ref(),
            variables: spec.variables,
            death_signal: spec.stop_signal,
        };
        let mut command = command(&launch).map_err(spawn_error)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(spawn_error)?)
            .stderr(log)
            .process_group(0); // Ctrl-C on the terminal must not reach it first.
        let (spawned_sender, spawned) = mpsc::channel();
        let (exit_sender, exit) = watch::channel(None);
        let alive = Arc::new(Mutex::new(true));
        let alive_in_thread = Arc::clone(&alive);
        thread::Builder::new()
            .name(format!("{}-wait", spec.name))
            .spawn(move || match command.spawn() {
                Ok(child) => {
                    // The receiver waits for exactly this message, so it exists.
                    let _ = spawned_sender.send(Ok(child.id()));
                    let exit = wait(child, &alive_in_thread);
                    exit_sender.send_replace(Some(exit));
                }
                Err(error) => {
                    let _ = spawned_sender.send(Err(error));
                }
            })
            .map_err(spawn_error)?;
        let pid = spawned
            .recv()
            .map_err(|_| spawn_error(io::Error::other("the thread of the process has ended")))?
            .map_err(spawn_error)?;
        Ok(Self { pid, stop_signal: spec.stop_signal, log_offset, is_alive: alive, exit })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Resolves when the process has ended and was reaped.
    pub(crate) async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit(None)),
            Err(_) => Exit(None), // The thread has ended, and with it the process.
        }
    }

    /// Sends a signal to the server's first process; `false` if it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let alive = self.is_alive.lock();
        *alive && send(self.pid, signal)
    }

    /// Sends a signal to the server and all of its descendants; `false` if it has ended.
    pub(crate) fn signal_tree(&self, signal: Signal) -> bool {
        let alive = self.is_alive.lock();
        if !*alive {
            return false;
        }
        let family = process_tree::process_tree(self.pid);
        let sent = send(self.pid, signal); // First, so that it starts no more of them.
        for descendant in family.into_iter().skip(1) {
            send(descendant, signal);
        }
        sent
    }

    /// Requests its end, and kills it if it has not ended after `within`.
    pub(crate) async fn stop(&self, timeout: Duration) -> Exit {
        self.request_stop();
        match tokio::time::timeout(timeout, self.exited()).await {
            Ok(exit) => exit,
            Err(_) => {
                tracing::warn!(
                    pid = self.pid,
                    seconds = timeout.as_secs_f32(),
                    "a server did not stop in time; killing it"
                );
                self.signal_tree(Signal::SIGKILL);
                self.exited().await
            }
        }
    }

    fn request_stop(&self) {
        self.signal(self.stop_signal);
        self.signal_tree(Signal::SIGCONT); // A suspended process receives no other signal.
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.request_stop();
    }
}

/// `false` if the process does not exist.
fn send(pid: u32, signal: Signal) -> bool {
    kill(Pid::from_raw(pid.cast_signed()), signal).is_ok()
}

/// Waits without reaping, then reaps under the lock.
fn wait(mut child: OsChild, is_alive: &Mutex<bool>) -> Exit {
    let pid = Pid::from_raw(child.id().cast_signed());
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let mut alive = is_alive.lock();
    *alive = false;
    Exit(child.wait().ok())
}

/// A command line, before the prefix that couples its lifetime to this process.
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    pub(crate) args: &'a [OsString],
    pub(crate) home: Option<&'a Path>,
    /// A folder that the program inherits as file descriptor 3.
    pub(crate) open_dir: Option<&'a Path>,
    pub(crate) run_as: Option<&'a RunAs>,
    /// Variables with their defaults: a value in this process's environment takes precedence.
    pub(crate) variables: &'a [(&'static str, &'static str)],
    /// Signal from the kernel when the thread that spawned it ends.
    pub(crate) death_signal: Signal,
}

/// Builds the command, with a prefix that couples its lifetime to this process and drops its
/// privileges.
pub(crate) fn command(launch: &Launch<'_>) -> io::Result<Command> {
    let mut argv = Vec::new();
    if let Some(dir) = launch.open_dir {
        argv.extend(with_open_dir(dir));
    }
    if let Some(setpriv) = setpriv() {
        argv.push(setpriv.into());
        argv.push("--no-new-privs".into());
        // Must be in the same call that changes the user: the kernel clears it at such a change.
        argv.push(
            format!("--pdeathsig={}", launch.death_signal.as_str().trim_start_matches("SIG"))
                .into(),
        );
        if let Some(user) = launch.run_as {
            argv.extend([
                format!("--reuid={}", user.uid).into(),
                format!("--regid={}", user.gid).into(),
                "--init-groups".into(),
            ]);
        }
        argv.push("--".into());
    } else if let Some(user) = launch.run_as {
        let hint = format!(
            "setpriv, which runs it as user {}, is not installed; install util-linux",
            user.name
        );
        return Err(io::Error::new(io::ErrorKind::NotFound, hint));
    }
    argv.push(launch.program.into());
    argv.extend(launch.args.iter().cloned());

    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).current_dir("/").env_clear().env("LC_ALL", "C.UTF-8");
    for name in INHERITED_VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    for (name, default) in launch.variables {
        command.env(name, std::env::var_os(name).unwrap_or_else(|| default.into()));
    }
    command.env("HOME", launch.home.unwrap_or(Path::new("/")));
    Ok(command)
}

/// Returns the prefix that runs the rest of a command line with `dir` open as file descriptor 3.
///
/// A shell opens it, because the standard library opens every file close-on-exec.
fn with_open_dir(dir: &Path) -> Vec<OsString> {
    ["/bin/sh", "-c", r#"exec 3<"$1"; shift; exec "$@""#, "sh"]
        .into_iter()
        .map(Into::into)
        .chain([dir.as_os_str().to_owned()])
        .collect()
}

/// Returns the path of util-linux's setpriv, which every Debian and Ubuntu has.
fn setpriv() -> Option<&'static Path> {
    ["/usr/bin/setpriv", "/bin/setpriv", "/usr/sbin/setpriv"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.exists())
}
