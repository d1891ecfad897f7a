//! A channel over the broker: what is said is sealed and published, what is heard is opened, counted
//! against the credit, and handed on.
//!
//! What was said is kept until the other side has heard it. So a message that is lost on the way, as
//! when one of both connects anew, is said again: who misses one asks for it.

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

/// Frames other than data that may wait to be taken, and screens, which are large; a side that says
/// more is given up.
const WAITING: (usize, usize) = (256, 8);
/// Little pieces of data are put together up to this size while they wait.
const TOGETHER: usize = 4096;
/// Bytes that may wait to be confirmed: what may be said without credit, and what has credit.
const UNCONFIRMED: usize = 4 << 20;
/// What was lost is said again no more often than this.
const AGAIN: Duration = Duration::from_millis(50);

/// The channel is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Gone(pub String);

/// Both directions of a channel.
#[derive(Debug)]
pub struct Channel {
    /// What this side says.
    pub sender: Sender,
    /// What the other side says.
    pub receiver: Receiver,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) subject: String,
    /// The most bytes in one message of this side.
    chunk: usize,
    pub(crate) outgoing: Mutex<Outgoing>,
    /// Connections that take the place of the one before.
    pub(crate) carriers: mpsc::UnboundedSender<(Client, Subscriber)>,
    /// How many bytes may still be said.
    pub(crate) credit: Semaphore,
    /// What was heard and not taken.
    pub(crate) heard: Lock<Heard>,
    pub(crate) news: Notify,
    /// Bytes that were taken and not credited yet.
    pub(crate) taken: AtomicU32,
    /// As many are credited.
    pub(crate) due: AtomicU32,
    pub(crate) credit_due: Notify,
    /// This side has ended it, and told so.
    pub(crate) is_closed: AtomicBool,
    /// Why the channel is over.
    pub(crate) over: Lock<Option<String>>,
    pub(crate) ended: CancellationToken,
    /// When this side said something last.
    pub(crate) said: Lock<Instant>,
    /// The counter after the last message that is not about messages themselves.
    pub(crate) needed: AtomicU64,
    /// The other side has heard everything before this message.
    pub(crate) heard_before: AtomicU64,
}

/// What is said, in its order.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) client: Client,
    pub(crate) sealer: Sealer,
    pub(crate) packer: Option<Packer>,
    /// Sealed messages that the other side has not confirmed, the oldest first.
    pub(crate) sent: VecDeque<Bytes>,
    /// How many bytes they are.
    pub(crate) bytes: usize,
    /// When they were said again.
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

    /// Everything before this message was heard.
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
    /// Bytes of data in it.
    bytes: usize,
    /// Frames other than data in it, and how many of them are screens.
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
            return Err("the other side says more than it may".to_owned());
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

/// Says things on a channel; cheap to clone.
#[derive(Clone, Debug)]
pub struct Sender(Arc<Inner>);

/// Hears things on a channel. When it is dropped, the channel ends.
#[derive(Debug)]
pub struct Receiver {
    inner: Arc<Inner>,
}

pub(crate) fn lock<T>(of: &Lock<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channel {
    /// Starts to carry a channel: what this side says goes to `subject`, what comes on `subscriber`
    /// was said by the other.
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
        // Held until it is handed over, so that messages go out in the order of their counters.
        let mut outgoing = self.outgoing.lock().await;
        let sealed = outgoing.seal(frame);
        let sealed = Bytes::from(sealed.map_err(|error| Gone(error.to_string()))?);
        if !frame.is_about_messages() {
            self.needed.store(outgoing.sealer.next(), Ordering::Relaxed);
        }
        outgoing.bytes += sealed.len();
        outgoing.sent.push_back(sealed.clone());
        if outgoing.bytes > UNCONFIRMED {
            self.end("the other side confirms nothing");
            return Err(self.gone());
        }
        *lock(&self.said) = Instant::now();
        // What this connection does not take any more, the next one will.
        let sent = outgoing.client.publish(self.subject.clone(), sealed).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a message of a channel waits for another connection");
        }
        Ok(())
    }

    /// The other side has heard everything before this message.
    pub(crate) async fn confirm(&self, next: u64) {
        self.outgoing.lock().await.confirm(next);
        self.heard_before.fetch_max(next, Ordering::Relaxed);
    }

    /// May the last that was said be lost, and nobody knows?
    pub(crate) fn is_unheard(&self) -> bool {
        self.heard_before.load(Ordering::Relaxed) < self.needed.load(Ordering::Relaxed)
    }

    /// Says again what the other side misses.
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
    /// Says bytes; waits for credit.
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

    /// Says anything but bytes.
    ///
    /// # Errors
    /// When the channel is over.
    pub async fn say(&self, frame: Frame) -> Result<(), Gone> {
        self.0.say(&frame).await
    }

    #[cfg(test)]
    pub(crate) fn is_unheard(&self) -> bool {
        self.0.is_unheard()
    }

    /// May bytes be said without waiting?
    #[must_use]
    pub fn has_credit(&self) -> bool {
        self.0.credit.available_permits() >= CHUNK
    }

    /// Goes on over another connection: from now on, messages are published by `client` and come on
    /// `subscriber`. What was lost between the two is said again, in both directions.
    pub fn carry_on(&self, client: Client, subscriber: Subscriber) {
        // When nobody takes it, the channel is over.
        let _ = self.0.carriers.send((client, subscriber));
    }

    /// Ends the channel, and tells the other side why.
    pub async fn close(&self, reason: &str) {
        if self.0.say(&Frame::Close(reason.to_owned())).await.is_ok() {
            self.0.is_closed.store(true, Ordering::Relaxed);
        }
        self.0.end(reason);
    }

    /// Is over when the channel is.
    pub async fn closed(&self) {
        self.0.ended.cancelled().await;
    }

    /// Is the channel over?
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.ended.is_cancelled()
    }

    /// Why it is over.
    #[must_use]
    pub fn why(&self) -> String {
        self.0.gone().0
    }
}

impl Receiver {
    /// The next thing that the other side says. What it said before the end is still handed out.
    ///
    /// # Errors
    /// When the channel is over; says why.
    pub async fn next(&mut self) -> Result<Frame, Gone> {
        loop {
            let news = self.inner.news.notified();
            // Asked first: whatever was heard before the end is there by then.
            let is_over = self.inner.ended.is_cancelled();
            let frame = lock(&self.inner.heard).pop();
            match frame {
                Some(Frame::Data(bytes)) => {
                    // Said by whoever listens: what is waited for here may be left at any time.
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
        self.inner.end("nobody listens any more");
    }
}
