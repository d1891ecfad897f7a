//! The agent's side of a helper.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::child::reap_later;
use super::job::HelperJob;
use super::{HELPER_TIMEOUT, wire};

/// The only argument of a helper process.
pub const HELPER_ARGUMENT: &str = "__helper";

/// The agent's own program, also after its file was replaced.
const OWN_PROGRAM: &str = "/proc/self/exe";

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Sets the agent's binary, from which helpers are started, for a process that embeds the agent.
/// Only the first call has an effect.
pub fn set_program(program: PathBuf) {
    PROGRAM.get_or_init(|| program);
}

/// The process of a helper. It is killed when this is dropped, and reaped in the background.
#[derive(Debug)]
struct HelperProcess(Option<Child>);

impl Drop for HelperProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended already.
            let _ = child.kill();
            reap_later(child);
        }
    }
}

/// A helper process that waits for its job. It is killed when it is dropped.
#[derive(Debug)]
pub(super) struct IdleHelper {
    child: HelperProcess,
    socket: StdStream,
}

impl IdleHelper {
    /// Starts a helper.
    ///
    /// # Errors
    /// When no process can be started.
    pub(super) fn start() -> io::Result<Self> {
        let (ours, theirs) = StdStream::pair()?;
        let child = Command::new(PROGRAM.get().map_or(Path::new(OWN_PROGRAM), PathBuf::as_path))
            .arg0("muster-agent")
            .arg(HELPER_ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child: HelperProcess(Some(child)), socket: ours })
    }

    /// Sends the helper its job, with descriptors.
    ///
    /// # Errors
    /// When the helper does not accept the job.
    pub(super) async fn assign<J: HelperJob>(self, job: &J, fds: &[OwnedFd]) -> io::Result<Helper> {
        wire::send_descriptors(&self.socket, fds)?;
        self.socket.set_nonblocking(true)?;
        let mut helper = Helper { child: self.child, socket: UnixStream::from_std(self.socket)? };
        let mut message = wire::encode(&J::NAME)?;
        message.extend(wire::encode(job)?);
        timeout(HELPER_TIMEOUT, helper.socket.write_all(&message))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(helper)
    }
}

/// A helper process. It is killed when it is dropped; one that is blocked by an unresponsive file
/// system is abandoned.
#[derive(Debug)]
pub(crate) struct Helper {
    child: HelperProcess,
    socket: UnixStream,
}

impl Helper {
    /// Starts a helper and sends it its job.
    ///
    /// # Errors
    /// When no process can be started, or the helper does not accept the job.
    pub(crate) async fn start<J: HelperJob>(job: &J) -> io::Result<Self> {
        IdleHelper::start()?.assign(job, &[]).await
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the helper has ended.
    pub(crate) async fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        self.socket.write_all(&wire::encode(message)?).await
    }

    /// Waits for a message; `None` if the helper has closed the socket.
    ///
    /// # Errors
    /// When the data is not a message.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut head = [0; 4];
        match self.socket.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let mut bytes = vec![0; wire::length(head)?];
        self.socket.read_exact(&mut bytes).await?;
        wire::decode(&bytes).map(Some)
    }

    /// Returns the socket, after both sides have agreed on another protocol.
    pub(crate) const fn socket(&mut self) -> &mut UnixStream {
        &mut self.socket
    }

    /// Returns the process, which has become another program.
    pub(super) fn into_child(mut self) -> io::Result<Child> {
        self.child.0.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
