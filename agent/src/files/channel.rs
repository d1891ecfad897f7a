//! The helper process of one file channel: SFTP over its socket.
//!
//! Each request runs on a thread of a bounded pool. If a file system does not respond, the request
//! is refused after its timeout; its thread remains until the process is killed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use muster_schemas::wire::ChannelRefusalCause;
use nix::sys::stat::{Mode, umask};
use russh_sftp::server::{Config, run_with_config};
use serde::{Deserialize, Serialize};
use tokio::io::copy_bidirectional;
use tokio::net::UnixStream;

use super::bounds::{Bounds, Failure};
use super::deadline::run_in_thread;
use super::server::{MAX_PACKET, Server};
use crate::policy::Policy;
use crate::subprocess::{HELPER_TIMEOUT, HelperJob, Port, path_bytes};

/// Maximum number of threads that an unresponsive file system can block.
const MAX_THREADS: usize = 8;
/// Stack size of a thread, in bytes.
const STACK_BYTES: usize = 256 * 1024;
/// Size of the buffer between the socket and the server, per direction, in bytes: room for one
/// response and the next.
const BUFFER_BYTES: usize = 256 * 1024;

/// The job of a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FilesJob {
    #[serde(with = "path_bytes")]
    policy: PathBuf,
    path: String,
    write: bool,
}

impl FilesJob {
    pub(crate) fn new(policy: &Path, path: &str, write: bool) -> Self {
        Self { policy: policy.to_owned(), path: path.to_owned(), write }
    }
}

/// First message of the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FilesReply {
    /// SFTP follows.
    Ready,
    /// Nothing follows.
    Refused(Refusal),
}

/// The reason why files are not served.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) cause: ChannelRefusalCause,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) const fn failed(reason: String) -> Self {
        Self { cause: ChannelRefusalCause::Failed, reason }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let cause = match &failure {
            Failure::Denied(_) => ChannelRefusalCause::Policy,
            Failure::Invalid(_) => ChannelRefusalCause::Invalid,
            Failure::Unresponsive(_) | Failure::Io(_) => ChannelRefusalCause::Failed,
        };
        Self { cause, reason: failure.to_string() }
    }
}

impl HelperJob for FilesJob {
    const NAME: &'static str = "files";

    /// Serves until the agent closes the socket.
    fn perform(self, port: Port, _descriptors: Vec<OwnedFd>) -> io::Result<()> {
        // As for a user's programs: without an explicit mode, files are readable by others.
        umask(Mode::from_bits_truncate(0o022));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_THREADS)
            .thread_stack_size(STACK_BYTES)
            .build()?;
        let served = runtime.block_on(serve(port, self));
        // A thread that hangs must not delay the exit.
        runtime.shutdown_background();
        served
    }
}

async fn serve(mut port: Port, job: FilesJob) -> io::Result<()> {
    let path = job.path.clone();
    let bounds = run_in_thread(&path, HELPER_TIMEOUT, move || {
        let policy = Policy::load(&job.policy)?;
        Bounds::new(policy, &job.path, job.write)
    });
    let bounds = match bounds.await {
        Ok(bounds) => bounds,
        Err(failure) => return port.send(&FilesReply::Refused(failure.into())),
    };
    port.send(&FilesReply::Ready)?;
    let socket = port.into_socket();
    socket.set_nonblocking(true)?;
    let mut socket = UnixStream::from_std(socket)?;
    let (mut ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
    let config = Config { max_client_packet_len: MAX_PACKET };
    run_with_config(theirs, Server::new(bounds), config).await;
    copy_bidirectional(&mut socket, &mut ours).await.map(drop)
}
