//! State of a channel: the messages that it sends, the frames that it has received, and its end.
//!
//! Sent messages are kept until the other side acknowledges them, so a message that is lost, as
//! during a reconnect, is retransmitted when the receiver requests it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use parking_lot::{Mutex as Lock, MutexGuard};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::frame::Frame;
use crate::pack::Packer;
use crate::receive_queue::ReceiveQueue;
use crate::seal::{SealError, Sealer};

/// Maximum size of unacknowledged messages, in bytes: those with and those without credit.
const MAX_UNACKED_BYTES: usize = 4 << 20;
/// Minimum interval between retransmissions.
const MIN_RETRANSMIT_INTERVAL: Duration = Duration::from_millis(50);

/// The channel has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ChannelEnded(pub String);

/// State of a channel, shared by its sender, its receiver and the task that listens.
#[derive(Debug)]
pub(crate) struct ChannelState {
    pub(crate) subject: String,
    /// Maximum size of the data in one message of this side, in bytes.
    pub(crate) max_chunk_bytes: usize,
    pub(crate) outgoing: Mutex<Outgoing>,
    /// Connections that replace the previous one.
    pub(crate) connections: mpsc::UnboundedSender<(Client, Subscriber)>,
    /// Number of bytes that may still be sent.
    pub(crate) credit: Semaphore,
    /// Received and not consumed.
    pub(crate) received: Lock<ReceiveQueue>,
    pub(crate) received_notify: Notify,
    /// Bytes consumed and not credited yet.
    pub(crate) consumed: AtomicU32,
    /// Number of consumed bytes at which credit is sent.
    pub(crate) credit_threshold: AtomicU32,
    pub(crate) credit_due: Notify,
    /// This side has closed the channel and notified the peer.
    pub(crate) is_closed: AtomicBool,
    /// Why the channel has ended.
    pub(crate) end_reason: Lock<Option<String>>,
    pub(crate) ended: CancellationToken,
    /// Time of the last message of this side.
    pub(crate) last_sent: Lock<Instant>,
    /// The counter after the last message that needs an acknowledgment.
    pub(crate) ack_needed_before: AtomicU64,
    /// The other side has received everything before this message.
    pub(crate) peer_received_before: AtomicU64,
}

/// Messages to send, in order.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) client: Client,
    pub(crate) sealer: Sealer,
    pub(crate) packer: Option<Packer>,
    /// Encrypted messages that the other side has not acknowledged, the oldest first.
    pub(crate) sent: VecDeque<Bytes>,
    /// Their size in bytes.
    pub(crate) bytes: usize,
    /// Time of the last retransmission.
    pub(crate) retransmitted_at: Option<Instant>,
}

impl Outgoing {
    fn seal(&mut self, frame: &Frame) -> Result<Vec<u8>, SealError> {
        let Self { sealer, packer, .. } = self;
        sealer.seal(|message| frame.write(packer.as_mut(), message))
    }

    /// The counter of the oldest message that is kept.
    fn oldest(&self) -> u64 {
        self.sealer.next() - self.sent.len() as u64
    }

    /// The other side has received everything before this message.
    fn confirm(&mut self, next: u64) {
        while self.oldest() < next
            && let Some(message) = self.sent.pop_front()
        {
            self.bytes -= message.len();
        }
    }
}

pub(crate) fn lock<T>(of: &Lock<T>) -> MutexGuard<'_, T> {
    of.lock()
}

impl ChannelState {
    pub(crate) fn end(&self, reason: &str) {
        lock(&self.end_reason).get_or_insert_with(|| reason.to_owned());
        self.ended.cancel();
        self.received_notify.notify_waiters();
    }

    pub(crate) fn ended_error(&self) -> ChannelEnded {
        let reason = lock(&self.end_reason).clone();
        ChannelEnded(reason.unwrap_or_else(|| "the channel was closed".to_owned()))
    }

    pub(crate) async fn send(&self, frame: &Frame) -> Result<(), ChannelEnded> {
        if self.ended.is_cancelled() {
            return Err(self.ended_error());
        }
        // Held until the message is published, so that messages go out in the order of their
        // counters.
        let mut outgoing = self.outgoing.lock().await;
        let sealed = outgoing.seal(frame);
        let sealed = Bytes::from(sealed.map_err(|error| ChannelEnded(error.to_string()))?);
        if !frame.is_delivery_control() {
            self.ack_needed_before.store(outgoing.sealer.next(), Ordering::Relaxed);
        }
        outgoing.bytes += sealed.len();
        outgoing.sent.push_back(sealed.clone());
        if outgoing.bytes > MAX_UNACKED_BYTES {
            self.end("the peer does not acknowledge messages");
            return Err(self.ended_error());
        }
        *lock(&self.last_sent) = Instant::now();
        // A message that this connection does not accept is retransmitted on the next one.
        let sent = outgoing.client.publish(self.subject.clone(), sealed).await;
        if let Err(error) = sent {
            tracing::debug!(
                %error,
                "failed to publish a message of a channel; it is sent on the next connection"
            );
        }
        Ok(())
    }

    /// The other side has received everything before this message.
    pub(crate) async fn confirm(&self, next: u64) {
        self.outgoing.lock().await.confirm(next);
        self.peer_received_before.fetch_max(next, Ordering::Relaxed);
    }

    /// Whether the last message may be lost without the other side's notice.
    pub(crate) fn has_unacked(&self) -> bool {
        self.peer_received_before.load(Ordering::Relaxed)
            < self.ack_needed_before.load(Ordering::Relaxed)
    }

    /// Retransmits the messages that the other side misses.
    pub(crate) async fn retransmit(&self, next: u64) {
        self.peer_received_before.fetch_max(next, Ordering::Relaxed);
        let mut outgoing = self.outgoing.lock().await;
        outgoing.confirm(next);
        if outgoing.retransmitted_at.is_some_and(|last| last.elapsed() < MIN_RETRANSMIT_INTERVAL) {
            return;
        }
        for message in &outgoing.sent {
            let sent = outgoing.client.publish(self.subject.clone(), message.clone()).await;
            if sent.is_err() {
                break;
            }
        }
        outgoing.retransmitted_at = Some(Instant::now());
    }
}
