//! Channels to the device's files: an SFTP server in a helper process.

use std::sync::Arc;

use bytes::BytesMut;
use muster_channel::{Channel, Frame, MAX_CHUNK_BYTES, Sender};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::opening::Opening;
use super::reason;
use super::registry::Channels;
use super::tcp::{ForwardError, flush, forward_to_device};
use crate::files::{FilesJob, FilesReply, Refusal};
use crate::subprocess::{HELPER_TIMEOUT, Helper, unresponsive_message};

/// Starts a helper that serves the files.
///
/// # Errors
/// The reason why they are not served.
async fn start(channels: &Channels, path: &str, write: bool) -> Result<Helper, Refusal> {
    let job = FilesJob::new(channels.policy_file(), path, write);
    let failed = |error: std::io::Error| {
        Refusal::failed(format!("failed to start the file helper: {error}"))
    };
    let mut helper = Helper::start(&job).await.map_err(failed)?;
    // The helper has its own timeout; this one is for a helper that hangs.
    match timeout(HELPER_TIMEOUT * 2, helper.receive::<FilesReply>()).await {
        Ok(Ok(Some(FilesReply::Ready))) => Ok(helper),
        Ok(Ok(Some(FilesReply::Refused(refusal)))) => Err(refusal),
        Ok(Ok(None)) => Err(Refusal::failed("the file helper exited".to_owned())),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(Refusal::failed(unresponsive_message(path))),
    }
}

/// Responds to the open, and serves files until either side ends.
pub(super) async fn open(
    channels: Arc<Channels>,
    opening: Opening,
    _permit: OwnedSemaphorePermit,
    path: String,
    write: bool,
) {
    let started = tokio::select! {
        started = start(&channels, &path, write) => started,
        () = channels.stop.cancelled() => return,
    };
    let mut helper = match started {
        Ok(helper) => helper,
        Err(Refusal { cause, reason }) => return opening.refuse(cause, reason).await,
    };
    let id = opening.channel;
    let Channel { sender, mut receiver } = match opening.accept().await {
        Ok(channel) => channel,
        Err(error) => {
            let problem = error.to_string();
            tracing::warn!(channel = %id, problem, "failed to open a channel");
            return;
        }
    };
    let (from, mut to) = helper.socket().split();
    let both = async {
        tokio::try_join!(
            forward_to_client(&sender, from),
            forward_to_device(&mut receiver, &mut to)
        )
    };
    let why = tokio::select! {
        done = both => done.err().map(|error| error.to_string()),
        () = flush(&sender) => Some(sender.end_reason()),
        () = channels.stop.cancelled() => Some(reason::AGENT_STOPS.to_owned()),
    };
    tracing::info!(channel = %id, reason = why, "a file transfer has ended");
    sender.close(why.as_deref().unwrap_or(reason::CONNECTION_ENDED)).await;
}

/// Forwards data from the SFTP server to the client, until the server's or the channel's end.
async fn forward_to_client(
    sender: &Sender,
    mut from: impl AsyncRead + Unpin,
) -> Result<(), ForwardError> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(MAX_CHUNK_BYTES);
        let count = tokio::select! {
            read = from.read_buf(&mut buffer) => read?,
            () = sender.closed() => return Ok(()),
        };
        if count == 0 {
            break;
        }
        if sender.send_data(buffer.split().freeze()).await.is_err() {
            return Ok(());
        }
    }
    let _ = sender.send(Frame::Eof).await;
    Ok(())
}
