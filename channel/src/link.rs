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
use crate::{CHUNK, Dialect, LEAST, WINDOW};

/// Maximum number of frames other than data, and of screens (which are large), that wait to be
/// consumed; a peer that sends more ends the channel.
const WAITING: (usize, usize) = (256, 8);
/// Size up to which small pieces of waiting data are merged, in bytes.
const TOGETHER: usize = 4096;
/// Maximum size of unacknowledged messages, in bytes: those with and those without credit.
const UNCONFIRMED: usize = 4 << 20;
/// Minimum interval between retransmissions.
const AGAIN: Duration = Duration::from_millis(50);

/// The channel has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Gone(pub String);

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
    chunk: usize,
    pub(crate) outgoing: Mutex<Outgoing>,
    /// Connections that replace the previous one.
    pub(crate) carriers: mpsc::UnboundedSender<(Client, Subscriber)>,
    /// Number of bytes that may still be sent.
    pub(crate) credit: Semaphore,
    /// Received and not consumed.
    pub(crate) heard: Lock<Heard>,
    pub(crate) news: Notify,
    /// Bytes consumed and not credited yet.
    pub(crate) taken: AtomicU32,
    /// Number of consumed bytes at which credit is sent.
    pub(crate) due: AtomicU32,
    pub(crate) credit_due: Notify,
    /// This side has closed the channel and notified the peer.
    pub(crate) is_closed: AtomicBool,
    /// Why the channel has ended.
    pub(crate) over: Lock<Option<String>>,
    pub(crate) ended: CancellationToken,
    /// Time of the last message of this side.
    pub(crate) said: Lock<Instant>,
    /// The counter after the last message that needs an acknowledgment.
    pub(crate) needed: AtomicU64,
    /// The other side has received everything before this message.
    pub(crate) heard_before: AtomicU64,
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
    pub(crate) again: Option<Instant>,
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
pub(crate) struct Heard {
    frames: VecDeque<Frame>,
    /// Bytes of data in the queue.
    bytes: usize,
    /// Number of frames other than data in the queue, and of screens among them.
    others: usize,
    screens: usize,
}

impl Heard {
    pub(crate) fn push(&mut self, frame: Frame) -> Result<(), String> {
        match &frame {
            Frame::Data(bytes) => self.bytes += bytes.len(),
            other => {
                self.others += 1;
                self.screens += usize::from(matches!(other, Frame::Screen(_)));
            }
        }
        let (others, screens) = WAITING;
        if self.bytes > WINDOW as usize || self.others > others || self.screens > screens {
            return Err("the peer exceeded its flow-control window".to_owned());
        }
        if let (Some(Frame::Data(last)), Frame::Data(bytes)) = (self.frames.back_mut(), &frame)
            && last.len() + bytes.len() <= TOGETHER
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
                self.others -= 1;
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
        dialect: Dialect,
    ) -> Self {
        let (chunk, packer, most) = match dialect {
            Dialect::Narrow => (32 * 1024, None, LEAST),
            Dialect::Wide => (CHUNK, Some(Packer::default()), WINDOW),
        };
        let (carriers, others) = mpsc::unbounded_channel();
        let outgoing = Outgoing {
            client,
            sealer: keys.seal,
            packer,
            sent: VecDeque::new(),
            bytes: 0,
            again: None,
        };
        let window = Window::new(Instant::now().into_std(), most);
        let inner = Arc::new(Inner {
            subject,
            chunk,
            outgoing: Mutex::new(outgoing),
            carriers,
            credit: Semaphore::new(LEAST as usize),
            heard: Lock::default(),
            news: Notify::new(),
            taken: AtomicU32::new(0),
            due: AtomicU32::new(window.due()),
            credit_due: Notify::new(),
            is_closed: AtomicBool::new(false),
            over: Lock::default(),
            ended: CancellationToken::new(),
            said: Lock::new(Instant::now()),
            needed: AtomicU64::new(0),
            heard_before: AtomicU64::new(0),
        });
        tokio::spawn(listen(Arc::clone(&inner), subscriber, others, keys.open, window));
        Self { sender: Sender(Arc::clone(&inner)), receiver: Receiver { inner } }
    }
}

impl Inner {
    pub(crate) fn end(&self, reason: &str) {
        lock(&self.over).get_or_insert_with(|| reason.to_owned());
        self.ended.cancel();
        self.news.notify_waiters();
    }

    fn gone(&self) -> Gone {
        let reason = lock(&self.over).clone();
        Gone(reason.unwrap_or_else(|| "the channel was closed".to_owned()))
    }

    pub(crate) async fn say(&self, frame: &Frame) -> Result<(), Gone> {
        if self.ended.is_cancelled() {
            return Err(self.gone());
        }
        // Held until the message is published, so that messages go out in the order of their counters.
        let mut outgoing = self.outgoing.lock().await;
        let sealed = outgoing.seal(frame);
        let sealed = Bytes::from(sealed.map_err(|error| Gone(error.to_string()))?);
        if !frame.is_about_messages() {
            self.needed.store(outgoing.sealer.next(), Ordering::Relaxed);
        }
        outgoing.bytes += sealed.len();
        outgoing.sent.push_back(sealed.clone());
        if outgoing.bytes > UNCONFIRMED {
            self.end("the peer does not acknowledge messages");
            return Err(self.gone());
        }
        *lock(&self.said) = Instant::now();
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
        self.heard_before.fetch_max(next, Ordering::Relaxed);
    }

    /// Whether the last message may be lost without the other side's notice.
    pub(crate) fn has_unacked(&self) -> bool {
        self.heard_before.load(Ordering::Relaxed) < self.needed.load(Ordering::Relaxed)
    }

    /// Retransmits the messages that the other side misses.
    pub(crate) async fn again(&self, next: u64) {
        self.heard_before.fetch_max(next, Ordering::Relaxed);
        let mut outgoing = self.outgoing.lock().await;
        outgoing.confirm(next);
        if outgoing.again.is_some_and(|last| last.elapsed() < AGAIN) {
            return;
        }
        for message in &outgoing.sent {
            let sent = outgoing.client.publish(self.subject.clone(), message.clone()).await;
            if sent.is_err() {
                break;
            }
        }
        outgoing.again = Some(Instant::now());
    }
}

impl Sender {
    /// Sends bytes; waits for credit.
    ///
    /// # Errors
    /// When the channel is over.
    pub async fn data(&self, bytes: Bytes) -> Result<(), Gone> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(self.0.chunk));
            let needed = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let credit = tokio::select! {
                credit = self.0.credit.acquire_many(needed) => credit,
                () = self.0.ended.cancelled() => return Err(self.0.gone()),
            };
            credit.map_err(|_| self.0.gone())?.forget();
            self.0.say(&Frame::Data(part)).await?;
        }
        Ok(())
    }

    /// Sends a frame other than data.
    ///
    /// # Errors
    /// When the channel is over.
    pub async fn say(&self, frame: Frame) -> Result<(), Gone> {
        self.0.say(&frame).await
    }

    #[cfg(test)]
    pub(crate) fn is_unheard(&self) -> bool {
        self.0.has_unacked()
    }

    /// Whether bytes can be sent without waiting.
    #[must_use]
    pub fn has_credit(&self) -> bool {
        self.0.credit.available_permits() >= CHUNK
    }

    /// Continues on another connection: messages are published by `client` and received on
    /// `subscriber`. Messages lost in between are retransmitted, in both directions.
    pub fn carry_on(&self, client: Client, subscriber: Subscriber) {
        // Without a receiver the channel has ended.
        let _ = self.0.carriers.send((client, subscriber));
    }

    /// Ends the channel, and sends the reason to the other side.
    pub async fn close(&self, reason: &str) {
        if self.0.say(&Frame::Close(reason.to_owned())).await.is_ok() {
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
    pub fn why(&self) -> String {
        self.0.gone().0
    }
}

impl Receiver {
    /// The next frame of the other side. Frames received before the end are still delivered.
    ///
    /// # Errors
    /// When the channel has ended; with the reason.
    pub async fn next(&mut self) -> Result<Frame, Gone> {
        loop {
            let news = self.inner.news.notified();
            // Read first: frames received before the end are in the queue by then.
            let is_over = self.inner.ended.is_cancelled();
            let frame = lock(&self.inner.heard).pop();
            match frame {
                Some(Frame::Data(bytes)) => {
                    // Sent by the listener task: this future may be dropped at any await.
                    let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    let before = self.inner.taken.fetch_add(count, Ordering::Relaxed);
                    if before + count >= self.inner.due.load(Ordering::Relaxed) {
                        self.inner.credit_due.notify_one();
                    }
                    return Ok(Frame::Data(bytes));
                }
                Some(frame) => return Ok(frame),
                None if is_over => return Err(self.inner.gone()),
                None => {}
            }
            tokio::select! {
                () = news => {}
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
