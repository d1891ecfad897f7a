//! Starts a program of a run or of a shell: a helper process becomes it.
//!
//! The helper enters the folder, finds the program, switches to the user and calls exec; each of
//! these can block indefinitely on a dead file system. The helper reports each step before it
//! starts, so that the agent can name the path.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, initgroups, setgid, setsid, setuid};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::job::HelperJob;
use super::process::{Helper, IdleHelper};
use super::wire::{DESCRIPTORS, Port};
use super::{HELPER_TIMEOUT, unresponsive_message};

/// Search path of programs, unless an order sets another one.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The shell for lines, and for users without a configured shell.
const SHELL: &str = "/bin/sh";
/// Maximum time for which a prepared helper waits for a program.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// File mode creation mask of programs.
const UMASK: u32 = 0o022;

/// A program, with the parameters of its start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) program: Program,
    /// Search path of programs without a slash in their names.
    pub(crate) path: String,
    /// The requested folder; the user's home or `/` if absent.
    pub(crate) cwd: Option<String>,
    pub(crate) home: String,
    /// Name, user id and group id, if they are not the agent's own.
    pub(crate) user: Option<(String, u32, u32)>,
    pub(crate) env: BTreeMap<String, String>,
    /// Whether standard input is the program's controlling terminal.
    pub(crate) has_terminal: bool,
}

/// The program to start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Program {
    /// A program and its arguments.
    Argv(Vec<String>),
    /// A line for `/bin/sh`.
    Line(String),
    /// This shell, as a login shell or with a line.
    Shell(String, Option<String>),
}

/// The reason why a program was not started, as the helper reports it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// The request is impossible on this device.
    #[error("{0}")]
    Invalid(String),
    /// A system call failed or did not return.
    #[error("{0}")]
    Failed(String),
}

/// A report of a launching helper.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// It will access this path next.
    Step(String),
    Invalid(String),
    Failed(String),
}

/// Starts programs.
///
/// A helper can be started before it is needed, so that this takes no time when the program is to
/// start.
#[derive(Debug, Default)]
pub(crate) struct Launcher {
    prepared: Mutex<Option<IdleHelper>>,
}

impl Launcher {
    fn prepared(&self) -> MutexGuard<'_, Option<IdleHelper>> {
        self.prepared.lock()
    }

    /// Starts a helper for the next program, if there is none yet. It is discarded if no program is
    /// started soon.
    pub(crate) fn prepare(self: &Arc<Self>) {
        let mut prepared = self.prepared();
        if prepared.is_some() {
            return;
        }
        // After a failure, the launch tries it again and reports the error.
        *prepared = IdleHelper::start().ok();
        let launcher = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep(IDLE_TIMEOUT).await;
            if let Some(launcher) = launcher.upgrade() {
                launcher.discard();
            }
        });
    }

    /// Ends the prepared helper.
    pub(crate) fn discard(&self) {
        drop(self.prepared().take());
    }

    /// Starts a program with these as its standard input, output and error. Returns its process.
    ///
    /// # Errors
    /// The reason why it was not started.
    pub(crate) async fn launch(
        &self,
        launch: Launch,
        stdio: [OwnedFd; DESCRIPTORS],
    ) -> Result<Child, LaunchError> {
        let prepared = self.prepared().take();
        // The prepared helper may have been killed meanwhile.
        let assigned = match prepared {
            Some(helper) => helper.assign(&launch, &stdio).await.ok(),
            None => None,
        };
        let helper = match assigned {
            Some(helper) => helper,
            None => {
                let started = async { IdleHelper::start()?.assign(&launch, &stdio).await };
                started.await.map_err(start_failed)?
            }
        };
        drop(stdio);
        started_program(helper).await
    }
}

/// Waits until the helper has become the program.
async fn started_program(mut helper: Helper) -> Result<Child, LaunchError> {
    let mut step = "/".to_owned();
    loop {
        match timeout(HELPER_TIMEOUT, helper.receive::<Report>()).await {
            Ok(Ok(Some(Report::Step(path)))) => step = path,
            Ok(Ok(Some(Report::Invalid(reason)))) => return Err(LaunchError::Invalid(reason)),
            Ok(Ok(Some(Report::Failed(reason)))) => return Err(LaunchError::Failed(reason)),
            // A successful exec closes the socket.
            Ok(Ok(None)) => return helper.into_child().map_err(start_failed),
            Ok(Err(error)) => return Err(start_failed(error)),
            Err(_) => return Err(LaunchError::Failed(unresponsive_message(&step))),
        }
    }
}

impl HelperJob for Launch {
    const NAME: &'static str = "launch";

    /// Becomes the program; returns only on failure, after reporting it.
    fn perform(self, mut port: Port, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let report = match try_become(&mut port, &self, descriptors) {
            Ok(never) => match never {},
            Err(LaunchError::Invalid(reason)) => Report::Invalid(reason),
            Err(LaunchError::Failed(reason)) => Report::Failed(reason),
        };
        port.send(&report)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that `map_err` calls")]
fn start_failed(error: impl ToString) -> LaunchError {
    LaunchError::Failed(format!("failed to start the program: {}", error.to_string()))
}

fn try_become(
    port: &mut Port,
    launch: &Launch,
    descriptors: Vec<OwnedFd>,
) -> Result<std::convert::Infallible, LaunchError> {
    let [stdin, stdout, stderr]: [OwnedFd; DESCRIPTORS] =
        descriptors.try_into().map_err(|_| start_failed("its descriptors did not arrive"))?;
    // A new session: the program must not have access to the agent's terminal.
    setsid().map_err(start_failed)?;
    if launch.has_terminal {
        rustix::process::ioctl_tiocsctty(&stdin).map_err(start_failed)?;
    }
    umask(Mode::from_bits_truncate(UMASK));
    let denied = enter(port, launch)?;
    let (program, arg0, arguments) = find_program(port, launch)?;
    if let Some((name, uid, gid)) = &launch.user {
        become_user(name, *uid, *gid).map_err(|error| {
            LaunchError::Failed(format!("failed to switch to the user '{name}': {error}"))
        })?;
    }
    if let Some((folder, error)) = denied {
        // Some file systems grant access to their own user and not to root.
        std::env::set_current_dir(&folder).map_err(|_| {
            LaunchError::Failed(format!("failed to enter the folder '{folder}': {error}"))
        })?;
    }
    let _handlers = reset_signals().map_err(start_failed)?;
    step(port, &program.to_string_lossy())?;
    let mut command = Command::new(&program);
    if let Some(arg0) = arg0 {
        command.arg0(arg0);
    }
    if let Program::Shell(..) = launch.program {
        command.env_clear().envs(&launch.env).env("SHELL", &program);
    } else {
        command.env_clear().envs(&launch.env);
    }
    let error = command.args(arguments).stdin(stdin).stdout(stdout).stderr(stderr).exec();
    Err(match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::E2BIG) => {
            start_failed("the arguments and environment exceed the limit of this system (E2BIG)")
        }
        _ => start_failed(error),
    })
}

fn step(port: &mut Port, path: &str) -> Result<(), LaunchError> {
    port.send(&Report::Step(path.to_owned())).map_err(start_failed)
}

/// Enters the folder; returns it with the error if only the user may enter it.
fn enter(port: &mut Port, launch: &Launch) -> Result<Option<(String, io::Error)>, LaunchError> {
    let folder = launch.cwd.as_ref().unwrap_or(&launch.home);
    step(port, folder)?;
    let error = match std::env::set_current_dir(folder) {
        Ok(()) => return Ok(None),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::PermissionDenied if launch.user.is_some() => {
            return Ok(Some((folder.clone(), error)));
        }
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
        _ => {
            let reason = format!("failed to enter the folder '{folder}': {error}");
            return Err(LaunchError::Failed(reason));
        }
    }
    if launch.cwd.is_some() {
        let reason = format!("folder '{folder}' does not exist on this device");
        return Err(LaunchError::Invalid(reason));
    }
    // A user without a home.
    std::env::set_current_dir("/").map_err(start_failed)?;
    Ok(None)
}

type Found = (PathBuf, Option<String>, Vec<String>);

/// Returns the program, its `argv[0]` if that differs, and its arguments.
fn find_program(port: &mut Port, launch: &Launch) -> Result<Found, LaunchError> {
    match &launch.program {
        Program::Line(line) => Ok((SHELL.into(), None, vec!["-c".to_owned(), line.clone()])),
        Program::Argv(argv) => {
            let name = argv.first().map_or("", String::as_str);
            let found = find(name, &launch.path, |path| step(port, &path.to_string_lossy()))?;
            Ok((found, None, argv.iter().skip(1).cloned().collect()))
        }
        Program::Shell(shell, line) => {
            step(port, shell)?;
            let shell = [Path::new(shell), Path::new(SHELL)].into_iter().find(|it| is_program(it));
            let shell = shell.ok_or_else(|| {
                LaunchError::Failed(format!("shell {SHELL} does not exist on this device"))
            })?;
            let name = shell.file_name().unwrap_or_default().to_string_lossy();
            Ok(match line {
                Some(line) => (shell.into(), None, vec!["-c".to_owned(), line.clone()]),
                // With a leading dash in its name, like login.
                None => (shell.into(), Some(format!("-{name}")), Vec::new()),
            })
        }
    }
}

fn is_program(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// Finds a program like a shell in the current folder.
fn find(
    name: &str,
    path: &str,
    mut touch: impl FnMut(&Path) -> Result<(), LaunchError>,
) -> Result<PathBuf, LaunchError> {
    let none = |reason| Err(LaunchError::Failed(reason));
    if name.contains('/') {
        let file = Path::new(name);
        touch(file)?;
        return match std::fs::metadata(file) {
            Ok(metadata) if metadata.is_file() => Ok(file.to_owned()),
            Ok(_) => none(format!("'{name}' is not a program")),
            Err(error) => none(format!("failed to find the program '{name}': {error}")),
        };
    }
    for folder in std::env::split_paths(path) {
        let file = Path::new(".").join(folder).join(name);
        touch(&file)?;
        if is_program(&file) {
            return Ok(file);
        }
    }
    none(format!("failed to find the program '{name}' in {path}"))
}

fn become_user(name: &str, uid: u32, gid: u32) -> Result<(), Errno> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    initgroups(&name, Gid::from_raw(gid))?;
    setgid(Gid::from_raw(gid))?;
    setuid(Uid::from_raw(uid))
}

/// Resets signal dispositions to their defaults and unblocks all signals. A handler becomes the
/// default at exec, so installing one resets an ignored signal without unsafe code.
fn reset_signals() -> io::Result<Option<tokio::runtime::Runtime>> {
    SigSet::empty().thread_set_mask()?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // The standard library itself resets SIGPIPE.
    let ignored: Vec<i32> = (1..=31)
        .filter(|number| ignored & (1 << (number - 1)) != 0)
        .filter(|number| *number != nix::libc::SIGPIPE)
        .collect();
    if ignored.is_empty() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    for number in ignored {
        drop(signal(SignalKind::from_raw(number))?);
    }
    drop(entered);
    Ok(Some(runtime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_searched_as_by_a_shell() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        let search = dir.path().to_string_lossy().into_owned();
        let find = |name: &str, path: &str| {
            find(name, path, |_| Ok(())).map_err(|error| error.to_string())
        };
        assert!(find("tool", &search).is_err(), "it cannot be executed");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("tool", &search).unwrap(), path);
        assert_eq!(find(path.to_str().unwrap(), "").unwrap(), path);
        assert!(find("/no/such", "").unwrap_err().contains("/no/such"));
        assert!(find("/", "").is_err());
        assert!(find("no-such", &search).unwrap_err().contains("no-such"));
    }
}
