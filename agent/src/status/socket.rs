//! The socket of the status.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::Status;

/// Timeout of reading or writing the few bytes of a request.
const IO_TIMEOUT: Duration = Duration::from_secs(2);

/// Path of a running agent's status socket.
#[must_use]
pub fn socket_path(data: &Path) -> PathBuf {
    data.join("agent.sock")
}

/// Queries the agent that runs on a data folder; `None` if none runs.
///
/// # Errors
/// When an agent runs and does not respond.
pub async fn query_status(data: &Path) -> io::Result<Option<Status>> {
    let mut stream = match UnixStream::connect(socket_path(data)).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut json = Vec::new();
    tokio::time::timeout(IO_TIMEOUT, stream.read_to_end(&mut json)).await??;
    serde_json::from_slice(&json).map(Some).map_err(io::Error::other)
}

/// Serves status requests.
pub(crate) async fn serve_status(data: &Path, read_status: impl Fn() -> Status) {
    let path = socket_path(data);
    // The data folder is locked, so the agent that left this socket has ended.
    let _ = std::fs::remove_file(&path);
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(
                %error,
                path = %path.display(),
                "failed to open the socket of `muster-agent status`"
            );
            return;
        }
    };
    // Other users may traverse the folder to reach the sockets for metrics.
    if let Err(error) = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)) {
        tracing::warn!(
            %error,
            path = %path.display(),
            "failed to set the mode of the status socket"
        );
    }
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // For example, out of file descriptors.
            tokio::time::sleep(IO_TIMEOUT).await;
            continue;
        };
        let json = serde_json::to_vec(&read_status()).unwrap_or_default();
        let reply = async {
            stream.write_all(&json).await?;
            stream.shutdown().await
        };
        if !matches!(tokio::time::timeout(IO_TIMEOUT, reply).await, Ok(Ok(()))) {
            tracing::debug!("a status client disconnected before the response");
        }
    }
}
