//! A channel over the broker: frames are encrypted and published; received messages are decrypted,
//! counted against the credit, and delivered.
//!
//! Sent messages are kept until the other side acknowledges them, so a message that is lost, as during a
//! reconnect, is retransmitted when the receiver requests it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::frame::Frame;
use crate::listen::listen;
use crate::pack::Packer;
use crate::seal::{Keys, SealError, Sealer};
use crate::window::Window;
use crate::{INITIAL_WINDOW, MAX_CHUNK_BYTES, MAX_WINDOW, ProtocolVersion};

/// Maximum number of frames other than data, and of screens (which are large), that wait to be
/// consumed; a peer that sends more ends the channel.
const MAX_QUEUED_FRAMES: (usize, usize) = (256, 8);
/// Size up to which small pieces of waiting data are merged, in bytes.
const MERGE_MAX_BYTES: usize = 4096;
/// Maximum size of unacknowledged messages, in bytes: those with and those without credit.
const MAX_UNACKED_BYTES: usize = 4 << 20;
/// Minimum interval between retransmissions.
const MIN_RETRANSMIT_INTERVAL: Duration = Duration::from_millis(50);

/// The channel has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ChannelEnded(pub String);

/// Both directions of a channel.
#[derive(Debug)]
pub struct Channel {
    /// The sending direction.
    pub sender: Sender,
    /// The receiving direction.
    pub receiver: Receiver,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) subject: String,
    /// Maximum size of the data in one message of this side, in bytes.
    max_chunk_bytes: usize,
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

#[derive(Debug, Default)]
pub(crate) struct ReceiveQueue {
    frames: VecDeque<Frame>,
    /// Bytes of data in the queue.
    bytes: usize,
    /// Number of frames other than data in the queue, and of screens among them.
    control_frames: usize,
    screens: usize,
}

impl ReceiveQueue {
    pub(crate) fn push(&mut self, frame: Frame) -> Result<(), String> {
        match &frame {
            Frame::Data(bytes) => self.bytes += bytes.len(),
            other => {
                self.control_frames += 1;
                self.screens += usize::from(matches!(other, Frame::Screen(_)));
            }
        }
        let (others, screens) = MAX_QUEUED_FRAMES;
        if self.bytes > MAX_WINDOW as usize
            || self.control_frames > others
            || self.screens > screens
        {
            return Err("the peer exceeded its flow-control window".to_owned());
        }
        if let (Some(Frame::Data(last)), Frame::Data(bytes)) = (self.frames.back_mut(), &frame)
            && last.len() + bytes.len() <= MERGE_MAX_BYTES
        {
            *last = [&last[..], bytes].concat().into();
        } else {
            self.frames.push_back(frame);
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        match &frame {
            Frame::Data(bytes) => self.bytes -= bytes.len(),
            other => {
                self.control_frames -= 1;
                self.screens -= usize::from(matches!(other, Frame::Screen(_)));
            }
        }
        Some(frame)
    }
}

/// The sender of a channel; cheap to clone.
#[derive(Clone, Debug)]
pub struct Sender(Arc<Inner>);

/// The receiver of a channel. When it is dropped, the channel ends.
#[derive(Debug)]
pub struct Receiver {
    inner: Arc<Inner>,
}

pub(crate) fn lock<T>(of: &Lock<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channel {
    /// Starts a channel: frames of this side are published on `subject`, those of the other side are
    /// received on `subscriber`.
    #[must_use]
    pub fn start(
        client: Client,
        subject: String,
        subscriber: Subscriber,
        keys: Keys,
        version: ProtocolVersion,
    ) -> Self {
        let (chunk, packer, most) = match version {
            ProtocolVersion::V1 => (32 * 1024, None, INITIAL_WINDOW),
            ProtocolVersion::V2 => (MAX_CHUNK_BYTES, Some(Packer::default()), MAX_WINDOW),
        };
        let (carriers, others) = mpsc::unbounded_channel();
        let outgoing = Outgoing {
            client,
            sealer: keys.seal,
            packer,
            sent: VecDeque::new(),
            bytes: 0,
            retransmitted_at: None,
        };
        let window = Window::new(Instant::now().into_std(), most);
        let inner = Arc::new(Inner {
            subject,
            max_chunk_bytes: chunk,
            outgoing: Mutex::new(outgoing),
            connections: carriers,
            credit: Semaphore::new(INITIAL_WINDOW as usize),
            received: Lock::default(),
            received_notify: Notify::new(),
            consumed: AtomicU32::new(0),
            credit_threshold: AtomicU32::new(window.due()),
            credit_due: Notify::new(),
            is_closed: AtomicBool::new(false),
            end_reason: Lock::default(),
            ended: CancellationToken::new(),
            last_sent: Lock::new(Instant::now()),
            ack_needed_before: AtomicU64::new(0),
            peer_received_before: AtomicU64::new(0),
        });
        tokio::spawn(listen(Arc::clone(&inner), subscriber, others, keys.open, window));
        Self { sender: Sender(Arc::clone(&inner)), receiver: Receiver { inner } }
    }
}

impl Inner {
    pub(crate) fn end(&self, reason: &str) {
        lock(&self.end_reason).get_or_insert_with(|| reason.to_owned());
        self.ended.cancel();
        self.received_notify.notify_waiters();
    }

    fn ended_error(&self) -> ChannelEnded {
        let reason = lock(&self.end_reason).clone();
        ChannelEnded(reason.unwrap_or_else(|| "the channel was closed".to_owned()))
    }

    pub(crate) async fn send(&self, frame: &Frame) -> Result<(), ChannelEnded> {
        if self.ended.is_cancelled() {
            return Err(self.ended_error());
        }
        // Held until the message is published, so that messages go out in the order of their counters.
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

impl Sender {
    /// Sends bytes; waits for credit.
    ///
    /// # Errors
    /// When the channel is over.
    pub async fn send_data(&self, bytes: Bytes) -> Result<(), ChannelEnded> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(self.0.max_chunk_bytes));
            let needed = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let credit = tokio::select! {
                credit = self.0.credit.acquire_many(needed) => credit,
                () = self.0.ended.cancelled() => return Err(self.0.ended_error()),
            };
            credit.map_err(|_| self.0.ended_error())?.forget();
            self.0.send(&Frame::Data(part)).await?;
        }
        Ok(())
    }

    /// Sends a frame other than data.
    ///
    /// # Errors
    /// When the channel is over.
    pub async fn send(&self, frame: Frame) -> Result<(), ChannelEnded> {
        self.0.send(&frame).await
    }

    #[cfg(test)]
    pub(crate) fn has_unacked(&self) -> bool {
        self.0.has_unacked()
    }

    /// Whether bytes can be sent without waiting.
    #[must_use]
    pub fn has_credit(&self) -> bool {
        self.0.credit.available_permits() >= MAX_CHUNK_BYTES
    }

    /// Continues on another connection: messages are published by `client` and received on
    /// `subscriber`. Messages lost in between are retransmitted, in both directions.
    pub fn switch_connection(&self, client: Client, subscriber: Subscriber) {
        // Without a receiver the channel has ended.
        let _ = self.0.connections.send((client, subscriber));
    }

    /// Ends the channel, and sends the reason to the other side.
    pub async fn close(&self, reason: &str) {
        if self.0.send(&Frame::Close(reason.to_owned())).await.is_ok() {
            self.0.is_closed.store(true, Ordering::Relaxed);
        }
        self.0.end(reason);
    }

    /// Completes when the channel has ended.
    pub async fn closed(&self) {
        self.0.ended.cancelled().await;
    }

    /// Whether the channel has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.ended.is_cancelled()
    }

    /// Why it has ended.
    #[must_use]
    pub fn end_reason(&self) -> String {
        self.0.ended_error().0
    }
}

impl Receiver {
    /// The next frame of the other side. Frames received before the end are still delivered.
    ///
    /// # Errors
    /// When the channel has ended; with the reason.
    pub async fn next(&mut self) -> Result<Frame, ChannelEnded> {
        loop {
            let update = self.inner.received_notify.notified();
            // Read first: frames received before the end are in the queue by then.
            let is_over = self.inner.ended.is_cancelled();
            let frame = lock(&self.inner.received).pop();
            match frame {
                Some(Frame::Data(bytes)) => {
                    // Sent by the listener task: this future may be dropped at any await.
                    let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    let before = self.inner.consumed.fetch_add(count, Ordering::Relaxed);
                    if before + count >= self.inner.credit_threshold.load(Ordering::Relaxed) {
                        self.inner.credit_due.notify_one();
                    }
                    return Ok(Frame::Data(bytes));
                }
                Some(frame) => return Ok(frame),
                None if is_over => return Err(self.inner.ended_error()),
                None => {}
            }
            tokio::select! {
                () = update => {}
                () = self.inner.ended.cancelled() => {}
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.inner.end("the receiver was dropped");
    }
}
