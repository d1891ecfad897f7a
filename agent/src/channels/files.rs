//! The device's files: an SFTP server behind a channel.

use std::sync::Arc;

use bytes::BytesMut;
use muster_channel::{CHUNK, Channel, Frame, Sender};
use muster_schemas::wire::ChannelRefusalCause;
use russh_sftp::server::{Config, run_with_config};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::Opening;
use super::registry::Channels;
use super::tcp::{broken, down, last};
use crate::files::{Bounds, Failure, MAX_PACKET, Server};

/// What is said and not heard yet, in each direction, in bytes: one answer, and the next.
const BETWEEN: usize = 256 * 1024;

/// Answers, and serves until either side is through.
pub(super) async fn open(
    channels: Arc<Channels>,
    opening: Opening,
    _place: OwnedSemaphorePermit,
    path: String,
    write: bool,
) {
    let bounds = match channels.policy() {
        Ok(policy) => Bounds::new(policy, &path, write),
        Err(reason) => Err(Failure::Denied(reason)),
    };
    let bounds = match bounds {
        Ok(bounds) => bounds,
        Err(failure) => {
            let cause = match &failure {
                Failure::Denied(_) => ChannelRefusalCause::Policy,
                Failure::Invalid(_) => ChannelRefusalCause::Invalid,
                Failure::Io(_) => ChannelRefusalCause::Failed,
            };
            return opening.refuse(cause, failure.to_string()).await;
        }
    };
    let id = opening.channel;
    let Channel { sender, mut receiver } = match opening.accept().await {
        Ok(channel) => channel,
        Err(problem) => {
            tracing::warn!(channel = %id, problem, "a channel did not come about");
            return;
        }
    };
    let (ours, theirs) = tokio::io::duplex(BETWEEN);
    run_with_config(theirs, Server::new(bounds), Config { max_client_packet_len: MAX_PACKET })
        .await;
    let (from, mut to) = tokio::io::split(ours);
    let both = async { tokio::try_join!(up(&sender, from), down(&mut receiver, &mut to)) };
    let why = tokio::select! {
        done = both => done.err(),
        () = last(&sender) => Some(sender.why()),
        () = channels.stop.cancelled() => Some("the agent stops".to_owned()),
    };
    tracing::info!(channel = %id, why, "files are done with");
    sender.close(why.as_deref().unwrap_or("all was said")).await;
}

/// From the SFTP server to whoever asked, until its end, or the channel's.
async fn up(sender: &Sender, mut from: impl AsyncRead + Unpin) -> Result<(), String> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        let count = tokio::select! {
            read = from.read_buf(&mut buffer) => read.map_err(|error| broken(&error))?,
            () = sender.closed() => return Ok(()),
        };
        if count == 0 {
            break;
        }
        if sender.data(buffer.split().freeze()).await.is_err() {
            return Ok(());
        }
    }
    let _ = sender.say(Frame::Eof).await;
    Ok(())
}
