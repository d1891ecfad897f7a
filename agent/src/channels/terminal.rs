//! A program with a pseudo-terminal: started like a login shell, read and written without blocking,
//! and ended with all its processes.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use bytes::Bytes;
use filedescriptor::FileDescriptor;
use muster_schemas::wire::TerminalSize;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::termios::{InputFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use parking_lot::Mutex;
use portable_pty::{ExitStatus, MasterPty, PtySize, native_pty_system};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep};

use crate::run_as::RunAs;
use crate::subprocess::{
    Launch, LaunchError, Launcher, PATH, Program, has_ended, pid_of, reap_later,
};

/// Maximum number of bytes of one read.
const MAX_READ_BYTES: usize = 32 * 1024;
/// Interval between checks whether processes have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The reason why no shell was started.
#[derive(Debug, thiserror::Error)]
pub(super) enum TerminalError {
    #[error("failed to open a pseudo-terminal: {0}")]
    Open(#[source] Box<dyn Error + Send + Sync>),
    #[error("the pseudo-terminal has no descriptor")]
    NoDescriptor,
    #[error("failed to use the pseudo-terminal: {0}")]
    Descriptor(#[from] filedescriptor::Error),
    #[error("failed to use the pseudo-terminal: {0}")]
    Io(#[from] io::Error),
    #[error("failed to start a shell: {0}")]
    Start(#[from] LaunchError),
}

/// A program and its terminal. When it is dropped, the program is killed.
pub(super) struct Terminal {
    /// Both ends are the terminal: tokio handles it like a pipe.
    from: pipe::Receiver,
    to: pipe::Sender,
    /// Resizes the terminal, and reads the foreground process group.
    master: Mutex<Box<dyn MasterPty + Send>>,
    child: Option<Child>,
    pid: Pid,
    has_ended: bool,
}

/// A file descriptor with another owner.
struct Borrowed(RawFd);

impl AsRawFd for Borrowed {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

fn pty_size(size: TerminalSize) -> PtySize {
    PtySize { rows: size.rows, cols: size.cols, pixel_width: 0, pixel_height: 0 }
}

/// Returns the locale: the agent's own if its encoding is UTF-8.
fn lang() -> String {
    let own = std::env::var("LANG").unwrap_or_default();
    let lower = own.to_ascii_lowercase();
    if lower.contains("utf-8") || lower.contains("utf8") { own } else { "C.UTF-8".to_owned() }
}

/// Builds the launch message of a shell of this user, or a line for it.
fn shell(user: &RunAs, line: Option<&str>, term: &str) -> Launch {
    let home = user.home.to_string_lossy().into_owned();
    let env = [
        ("PATH", PATH.to_owned()),
        ("HOME", home.clone()),
        ("USER", user.name.clone()),
        ("LOGNAME", user.name.clone()),
        ("LANG", lang()),
        ("TERM", term.to_owned()),
    ];
    let shell = user.shell.to_string_lossy().into_owned();
    Launch {
        program: Program::Shell(shell, line.map(str::to_owned)),
        path: PATH.to_owned(),
        cwd: None,
        home,
        user: user.identity(),
        env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        has_terminal: true,
    }
}

/// Opens the program's side of a pseudo-terminal.
fn other_side(terminal: &FileDescriptor, name: Option<PathBuf>) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    if let Ok(fd) = ioctl_tiocgptpeer(terminal, flags) {
        return Ok(fd);
    }
    // Kernels before 4.13.
    let name = name.ok_or(io::ErrorKind::NotFound)?;
    let mut options = std::fs::OpenOptions::new();
    let options = options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
    Ok(options.open(name)?.into())
}

/// A pseudo-terminal: the agent's ends of it, and the program's standard input, output and error.
struct Pair {
    from: pipe::Receiver,
    to: pipe::Sender,
    master: Mutex<Box<dyn MasterPty + Send>>,
    stdio: [OwnedFd; 3],
}

impl Pair {
    fn open(size: TerminalSize) -> Result<Self, TerminalError> {
        let pair = native_pty_system()
            .openpty(pty_size(size))
            .map_err(|error| TerminalError::Open(error.into()))?;
        let raw = pair.master.as_raw_fd().ok_or(TerminalError::NoDescriptor)?;
        let mut own = FileDescriptor::dup(&Borrowed(raw))?;
        own.set_non_blocking(true)?;
        // With this mode, a multi-byte character is erased as a whole.
        if let Ok(mut modes) = tcgetattr(&own) {
            modes.input_flags |= InputFlags::IUTF8;
            let _ = tcsetattr(&own, SetArg::TCSANOW, &modes);
        }
        let end = || own.as_fd().try_clone_to_owned();
        let from = pipe::Receiver::from_owned_fd_unchecked(end()?)?;
        let to = pipe::Sender::from_owned_fd_unchecked(end()?)?;
        let one = other_side(&own, pair.master.tty_name())?;
        let stdio = [one.try_clone()?, one.try_clone()?, one];
        Ok(Self { from, to, master: Mutex::new(pair.master), stdio })
    }
}

impl Terminal {
    /// Starts a shell as this user, or a line for it.
    ///
    /// # Errors
    /// The reason why no shell was started.
    pub(super) async fn open(
        user: &RunAs,
        line: Option<&str>,
        term: &str,
        size: TerminalSize,
    ) -> Result<Self, TerminalError> {
        let Pair { from, to, master, stdio } = Pair::open(size)?;
        let child = Launcher::default().launch(shell(user, line, term), stdio).await?;
        let pid = pid_of(child.id());
        Ok(Self { from, to, master, child: Some(child), pid, has_ended: false })
    }

    /// Process of the program, which is the session leader.
    pub(super) const fn pid(&self) -> Pid {
        self.pid
    }

    /// Reads the program's output; empty when no process has the terminal open.
    pub(super) async fn read(&self) -> io::Result<Bytes> {
        loop {
            self.from.readable().await?;
            // Allocated only while there is data: a silent program needs no memory.
            let (mut buffer, mut length) = (vec![0_u8; MAX_READ_BYTES], 0);
            let end = loop {
                match self.from.try_read(buffer.get_mut(length..).unwrap_or_default()) {
                    Ok(0) => break None,
                    Ok(count) => length += count,
                    Err(error) => break Some(error),
                }
            };
            match end.filter(|_| length == 0) {
                Some(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // No process has it open.
                Some(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {
                    return Ok(Bytes::new());
                }
                Some(error) => return Err(error),
                None => {
                    buffer.truncate(length);
                    return Ok(Bytes::copy_from_slice(&buffer));
                }
            }
        }
    }

    /// Writes some of these bytes; returns their number.
    pub(super) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.to.writable().await?;
            match self.to.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    /// Like [`Self::write`], even without a readiness event from the kernel.
    pub(super) fn write_now(&self, bytes: &[u8]) -> usize {
        nix::unistd::write(&self.to, bytes).unwrap_or(0)
    }

    pub(super) fn resize(&self, size: TerminalSize) {
        let master = self.master.lock();
        if let Err(error) = master.resize(pty_size(size)) {
            tracing::debug!(%error, "failed to resize a terminal");
        }
    }

    /// Returns the groups that a signal to the session is sent to: the shell's, and the foreground
    /// group.
    fn groups(&self) -> Vec<Pid> {
        let master = self.master.lock();
        let front = master.process_group_leader().map(Pid::from_raw);
        let mut groups = vec![self.pid];
        groups.extend(front.filter(|front| *front != self.pid));
        groups
    }

    /// Sends SIGHUP to the program and the foreground group. Returns the groups that were in the
    /// background before, which are spared.
    pub(super) fn hang_up(&self) -> Vec<Pid> {
        let background = self.background();
        for group in &self.groups() {
            // The group may have ended already. A stopped one must continue to receive the signal.
            let _ = killpg(*group, Signal::SIGHUP);
            let _ = killpg(*group, Signal::SIGCONT);
        }
        background
    }

    /// Kills the remaining processes of the session, except these groups.
    pub(super) fn kill(&self, spared: &[Pid]) {
        // The first pass ends a shell that is about to start a process, the second one that
        // process.
        for _ in 0..2 {
            for (pid, _) in self.members(spared) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// Waits until no process of the session is left, except these groups; kills the rest at the
    /// given time.
    pub(super) async fn clear(&self, spared: &[Pid], kill_at: Instant) {
        while !self.members(spared).is_empty() {
            if Instant::now() >= kill_at {
                return self.kill(spared);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns the groups of this session that are neither the program's nor in the foreground.
    fn background(&self) -> Vec<Pid> {
        let front = self.groups();
        let all = self.members(&[]).into_iter().map(|(_, group)| group);
        all.filter(|group| !front.contains(group)).collect()
    }

    /// Returns the live processes of this session, each with its group, except groups that are
    /// spared and not in the foreground. The program is reaped only at its end, so its session id
    /// cannot be reused.
    fn members(&self, spared: &[Pid]) -> Vec<(Pid, Pid)> {
        let Ok(all) = procfs::process::all_processes() else { return Vec::new() };
        let front = self.groups();
        all.flatten()
            .filter_map(|process| process.stat().ok())
            .filter(|stat| stat.session == self.pid.as_raw() && !matches!(stat.state, 'Z' | 'X'))
            .map(|stat| (Pid::from_raw(stat.pid), Pid::from_raw(stat.pgrp)))
            .filter(|(_, group)| front.contains(group) || !spared.contains(group))
            .collect()
    }

    /// Kills the program and waits for its end for a limited time.
    pub(super) async fn abandon(mut self) {
        self.kill(&self.background());
        for _ in 0..20 {
            self.reap();
            if self.has_ended {
                return;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns how the program ended, if it has.
    pub(super) fn reap(&mut self) -> Option<ExitStatus> {
        if !has_ended(self.pid) {
            return None;
        }
        let status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        self.has_ended = true;
        status.map(ExitStatus::from)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if !self.has_ended {
            self.kill(&self.background());
            // An unresponsive file system may block it for a long time.
            if let Some(child) = self.child.take() {
                reap_later(child);
            }
        }
    }
}
