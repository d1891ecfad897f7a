//! A channel over the broker, as its user sees it: it sends frames within the credit of the other
//! side, and returns received ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use parking_lot::Mutex as Lock;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::frame::Frame;
use crate::listen::listen;
use crate::pack::Packer;
use crate::seal::Keys;
use crate::state::{ChannelEnded, ChannelState, Outgoing, lock};
use crate::window::Window;
use crate::{INITIAL_WINDOW, MAX_CHUNK_BYTES, MAX_WINDOW, ProtocolVersion};

/// Both directions of a channel.
#[derive(Debug)]
pub struct Channel {
    /// The sending direction.
    pub sender: Sender,
    /// The receiving direction.
    pub receiver: Receiver,
}

/// The sender of a channel; cheap to clone.
#[derive(Clone, Debug)]
pub struct Sender(Arc<ChannelState>);

/// The receiver of a channel. When it is dropped, the channel ends.
#[derive(Debug)]
pub struct Receiver {
    state: Arc<ChannelState>,
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
        let state = Arc::new(ChannelState {
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
        tokio::spawn(listen(Arc::clone(&state), subscriber, others, keys.open, window));
        Self { sender: Sender(Arc::clone(&state)), receiver: Receiver { state } }
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
            let update = self.state.received_notify.notified();
            // Read first: frames received before the end are in the queue by then.
            let is_over = self.state.ended.is_cancelled();
            let frame = lock(&self.state.received).pop();
            match frame {
                Some(Frame::Data(bytes)) => {
                    // Sent by the listener task: this future may be dropped at any await.
                    let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    let before = self.state.consumed.fetch_add(count, Ordering::Relaxed);
                    if before + count >= self.state.credit_threshold.load(Ordering::Relaxed) {
                        self.state.credit_due.notify_one();
                    }
                    return Ok(Frame::Data(bytes));
                }
                Some(frame) => return Ok(frame),
                None if is_over => return Err(self.state.ended_error()),
                None => {}
            }
            tokio::select! {
                () = update => {}
                () = self.state.ended.cancelled() => {}
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.state.end("the receiver was dropped");
    }
}
