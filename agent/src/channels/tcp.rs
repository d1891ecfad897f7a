//! A TCP connection from the device, and its bytes in both directions.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_channel::{Channel, ChannelEnded, Frame, MAX_CHUNK_BYTES, Receiver, Sender};
use muster_schemas::wire::ChannelRefusalCause;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::opening::Opening;
use super::reason;
use super::registry::Channels;

/// Timeout for writing the data that precedes a channel's end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason why data is not forwarded any longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    /// The device's side could not be read or written.
    #[error("the connection failed: {0}")]
    Connection(#[from] io::Error),
    #[error(transparent)]
    Channel(#[from] ChannelEnded),
}

/// Connects, responds, and carries bytes until either side ends.
pub(super) async fn open(
    channels: Arc<Channels>,
    opening: Opening,
    _permit: OwnedSemaphorePermit,
    host: String,
    port: u16,
) {
    let allowed = channels.policy().and_then(|policy| policy.allows_port(&host, port));
    if let Err(denied) = allowed {
        return opening.refuse(ChannelRefusalCause::Policy, denied.to_string()).await;
    }
    if host.is_empty() || host.contains(char::is_whitespace) || port == 0 {
        let reason = format!("'{}:{port}' is not a host and port", host.escape_debug());
        return opening.refuse(ChannelRefusalCause::Invalid, reason).await;
    }
    let made = tokio::select! {
        made = timeout(channels.options.connect_timeout, TcpStream::connect((host.as_str(), port))) => made,
        () = channels.stop.cancelled() => return,
    };
    let stream = match made {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let reason = format!("failed to connect to {host}:{port}: {error}");
            return opening.refuse(ChannelRefusalCause::Failed, reason).await;
        }
        Err(_) => {
            let seconds = channels.options.connect_timeout.as_secs();
            let reason =
                format!("failed to connect to {host}:{port}: no response within {seconds} s");
            return opening.refuse(ChannelRefusalCause::Failed, reason).await;
        }
    };
    // Interactive sessions need each keystroke without delay.
    let _ = stream.set_nodelay(true);
    let id = opening.channel;
    let Channel { sender, mut receiver } = match opening.accept().await {
        Ok(channel) => channel,
        Err(error) => {
            let problem = error.to_string();
            tracing::warn!(channel = %id, problem, "failed to open a channel");
            return;
        }
    };
    let (from, mut to) = stream.into_split();
    // A peer that no longer reads may still send; after a reset it does neither.
    let both = async {
        let down = async { Ok::<_, ForwardError>(forward_to_device(&mut receiver, &mut to).await) };
        let ((), down) = tokio::try_join!(forward_to_server(&sender, from), down)?;
        down
    };
    let why = tokio::select! {
        done = both => done.err().map(|error| error.to_string()),
        () = flush(&sender) => Some(sender.end_reason()),
        () = channels.stop.cancelled() => Some(reason::AGENT_STOPS.to_owned()),
    };
    tracing::info!(channel = %id, reason = why, "a connection has ended");
    sender.close(why.as_deref().unwrap_or(reason::CONNECTION_ENDED)).await;
}

/// Waits until the data that precedes the channel's end has had time to be written.
pub(super) async fn flush(sender: &Sender) {
    sender.closed().await;
    sleep(CLOSE_TIMEOUT).await;
}

/// Forwards from the device's side to the server, until its end or the channel's.
async fn forward_to_server(sender: &Sender, from: OwnedReadHalf) -> Result<(), ForwardError> {
    loop {
        let ready = tokio::select! {
            ready = from.readable() => ready,
            () = sender.closed() => return Ok(()),
        };
        ready?;
        // Allocated only while there is data: a silent connection needs no memory.
        let mut buffer = vec![0; MAX_CHUNK_BYTES];
        match from.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                buffer.truncate(count);
                if sender.send_data(Bytes::from(buffer)).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    let _ = sender.send(Frame::Eof).await;
    Ok(())
}

/// Forwards from the server to the device's side, until its end.
pub(super) async fn forward_to_device(
    receiver: &mut Receiver,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), ForwardError> {
    loop {
        match receiver.next().await? {
            Frame::Data(bytes) => to.write_all(&bytes).await?,
            Frame::Eof => break,
            // Other frames do not occur on a connection.
            _ => {}
        }
    }
    Ok(to.shutdown().await?)
}
