//! A channel over the broker: what is said is sealed and published, what is heard is opened, counted
//! against the credit, and handed on.
//!
//! What was said is kept until the other side has heard it. So a message that is lost on the way, as
//! when one of both connects anew, is said again: who misses one asks for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::frame::Frame;
use crate::seal::{Keys, Opener, SealError, Sealer};
use crate::{CHUNK, WINDOW};

/// A side that has nothing to say says so often that it lives.
const PING: Duration = Duration::from_secs(3);
/// A side that was not heard for so long is gone.
const SILENCE: Duration = Duration::from_secs(9);
/// Frames other than data that may wait to be taken, and screens, which are large; a side that says
/// more is given up.
const WAITING: (usize, usize) = (256, 8);
/// Little pieces of data are put together up to this size while they wait.
const TOGETHER: usize = 4096;
/// What was heard is confirmed after so many messages, or bytes.
const CONFIRMED: (u64, usize) = (32, 64 * 1024);
/// Bytes that may wait to be confirmed: what may be said without credit, and what has credit.
const UNCONFIRMED: usize = 4 << 20;
/// What was lost is said again no more often than this.
const AGAIN: Duration = Duration::from_millis(50);
/// What is missing is asked for after this, then after twice as long, and so on up to a second.
const ASK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

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
struct Inner {
    subject: String,
    outgoing: Mutex<Outgoing>,
    /// Connections that take the place of the one before.
    carriers: mpsc::UnboundedSender<(Client, Subscriber)>,
    /// How many bytes may still be said.
    credit: Semaphore,
    /// What was heard and not taken.
    heard: Lock<Heard>,
    news: Notify,
    /// Bytes that were taken and not credited yet.
    taken: AtomicU32,
    credit_due: Notify,
    /// This side has ended it, and told so.
    is_closed: AtomicBool,
    /// Why the channel is over.
    over: Lock<Option<String>>,
    ended: CancellationToken,
    /// When this side said something last.
    said: Lock<Instant>,
}

/// What is said, in its order.
#[derive(Debug)]
struct Outgoing {
    client: Client,
    sealer: Sealer,
    /// Sealed messages that the other side has not confirmed, the oldest first.
    sent: VecDeque<Bytes>,
    /// How many bytes they are.
    bytes: usize,
    /// When they were said again.
    again: Option<Instant>,
}

impl Outgoing {
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
struct Heard {
    frames: VecDeque<Frame>,
    /// Bytes of data in it.
    bytes: usize,
    /// Frames other than data in it, and how many of them are screens.
    others: usize,
    screens: usize,
}

impl Heard {
    fn push(&mut self, frame: Frame) -> Result<(), String> {
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

fn lock<T>(of: &Lock<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channel {
    /// Starts to carry a channel: what this side says goes to `subject`, what comes on `subscriber`
    /// was said by the other.
    #[must_use]
    pub fn start(client: Client, subject: String, subscriber: Subscriber, keys: Keys) -> Self {
        let (carriers, others) = mpsc::unbounded_channel();
        let outgoing =
            Outgoing { client, sealer: keys.seal, sent: VecDeque::new(), bytes: 0, again: None };
        let inner = Arc::new(Inner {
            subject,
            outgoing: Mutex::new(outgoing),
            carriers,
            credit: Semaphore::new(WINDOW as usize),
            heard: Lock::default(),
            news: Notify::new(),
            taken: AtomicU32::new(0),
            credit_due: Notify::new(),
            is_closed: AtomicBool::new(false),
            over: Lock::default(),
            ended: CancellationToken::new(),
            said: Lock::new(Instant::now()),
        });
        tokio::spawn(listen(Arc::clone(&inner), subscriber, others, keys.open));
        Self { sender: Sender(Arc::clone(&inner)), receiver: Receiver { inner } }
    }
}

impl Inner {
    fn end(&self, reason: &str) {
        lock(&self.over).get_or_insert_with(|| reason.to_owned());
        self.ended.cancel();
        self.news.notify_waiters();
    }

    fn gone(&self) -> Gone {
        let reason = lock(&self.over).clone();
        Gone(reason.unwrap_or_else(|| "the channel was closed".to_owned()))
    }

    async fn say(&self, frame: &Frame) -> Result<(), Gone> {
        if self.ended.is_cancelled() {
            return Err(self.gone());
        }
        // Held until it is handed over, so that messages go out in the order of their counters.
        let mut outgoing = self.outgoing.lock().await;
        let sealed = outgoing.sealer.seal(&frame.encode());
        let sealed = Bytes::from(sealed.map_err(|error| Gone(error.to_string()))?);
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
    async fn confirm(&self, next: u64) {
        self.outgoing.lock().await.confirm(next);
    }

    /// Says again what the other side misses.
    async fn again(&self, next: u64) {
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
            let part = rest.split_to(rest.len().min(CHUNK));
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
                    if before + count >= WINDOW / 4 {
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

/// The next message, if there is anybody who brings it.
async fn next(subscriber: &mut Option<Subscriber>) -> Option<async_nats::Message> {
    match subscriber {
        Some(subscriber) => subscriber.next().await,
        None => std::future::pending().await,
    }
}

/// Hears, until the channel is over.
async fn listen(
    inner: Arc<Inner>,
    subscriber: Subscriber,
    mut others: mpsc::UnboundedReceiver<(Client, Subscriber)>,
    opener: Opener,
) {
    let mut subscriber = Some(subscriber);
    let mut ear =
        Ear { opener, confirmed: 0, bytes: 0, is_missing: false, asked: None, wait: ASK.0 };
    let mut last = Instant::now();
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let said = tokio::select! {
            () = inner.ended.cancelled() => break,
            message = next(&mut subscriber) => match message {
                Some(message) => {
                    last = Instant::now();
                    ear.hear(&inner, &message.payload).await
                }
                // This connection is gone; there may be another.
                None => {
                    subscriber = None;
                    Ok(())
                }
            },
            Some((client, other)) = others.recv() => {
                inner.outgoing.lock().await.client = client;
                subscriber = Some(other);
                // What the other side has said meanwhile.
                (ear.is_missing, ear.asked) = (true, None);
                ear.ask(&inner).await;
                Ok(())
            }
            () = sleep_until(ear.ask_at()), if ear.is_missing => {
                ear.ask(&inner).await;
                Ok(())
            }
            () = inner.credit_due.notified() => {
                let count = inner.taken.swap(0, Ordering::Relaxed);
                if count > 0 {
                    let _ = inner.say(&Frame::Credit(count)).await;
                }
                Ok(())
            }
            _ = beat.tick() => {
                if last.elapsed() > SILENCE {
                    Err("the other side is silent".to_owned())
                } else {
                    if lock(&inner.said).elapsed() >= PING {
                        ear.confirm(&inner).await;
                    }
                    Ok(())
                }
            }
        };
        if let Err(reason) = said {
            inner.end(&reason);
            break;
        }
    }
    if inner.is_closed.load(Ordering::Relaxed) {
        let _ = timeout(SILENCE, linger(&inner, &mut subscriber, &mut others, &mut ear)).await;
    }
    if let Some(mut subscriber) = subscriber {
        let _ = subscriber.unsubscribe().await;
    }
}

/// What this side has said last is said until the other side has heard it.
async fn linger(
    inner: &Inner,
    subscriber: &mut Option<Subscriber>,
    others: &mut mpsc::UnboundedReceiver<(Client, Subscriber)>,
    ear: &mut Ear,
) {
    while !inner.outgoing.lock().await.sent.is_empty() {
        tokio::select! {
            message = next(subscriber) => match message {
                Some(message) => match ear.opener.open_any(&message.payload).map(|it| Frame::decode(&it)) {
                    Ok(Ok(Frame::Heard(next))) => inner.confirm(next).await,
                    Ok(Ok(Frame::Again(next))) => inner.again(next).await,
                    Ok(Ok(Frame::Close(_))) => return,
                    _ => {}
                },
                None => *subscriber = None,
            },
            Some((client, other)) = others.recv() => {
                inner.outgoing.lock().await.client = client;
                *subscriber = Some(other);
                inner.again(0).await;
            }
        }
    }
}

/// What was heard, as the other side is told.
struct Ear {
    opener: Opener,
    /// All before this message was confirmed.
    confirmed: u64,
    /// How many bytes came since.
    bytes: usize,
    /// A message was lost, or may have been.
    is_missing: bool,
    /// When it was asked for.
    asked: Option<Instant>,
    /// How long that waits for an answer.
    wait: Duration,
}

impl Ear {
    /// Tells how much was heard.
    async fn confirm(&mut self, inner: &Inner) {
        (self.confirmed, self.bytes) = (self.opener.next(), 0);
        let _ = inner.say(&Frame::Heard(self.confirmed)).await;
    }

    /// When to ask for what is missing.
    fn ask_at(&self) -> Instant {
        self.asked.map_or_else(Instant::now, |asked| asked + self.wait)
    }

    /// Asks for what is missing.
    async fn ask(&mut self, inner: &Inner) {
        if self.asked.is_some() {
            self.wait = (self.wait * 2).min(ASK.1);
        }
        self.asked = Some(Instant::now());
        let _ = inner.say(&Frame::Again(self.opener.next())).await;
    }

    /// A message before this one is missing. What it says of messages themselves is heard at once:
    /// both sides may miss some.
    async fn hear_ahead(&mut self, inner: &Inner, message: &[u8]) -> Result<(), String> {
        let plain = self.opener.look_ahead(message).map_err(|error| error.to_string())?;
        match Frame::decode(&plain) {
            Ok(Frame::Heard(next)) => inner.confirm(next).await,
            Ok(Frame::Again(next)) => inner.again(next).await,
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        self.is_missing = true;
        Ok(())
    }

    /// Takes one message; says why the channel cannot go on.
    async fn hear(&mut self, inner: &Inner, message: &[u8]) -> Result<(), String> {
        let plain = match self.opener.open(message) {
            Ok(plain) => plain,
            // Said again, and not needed.
            Err(SealError::Order { expected, found }) if found < expected => return Ok(()),
            Err(SealError::Order { .. }) => return self.hear_ahead(inner, message).await,
            Err(error) => return Err(error.to_string()),
        };
        (self.is_missing, self.wait) = (false, ASK.0);
        let frame = Frame::decode(&plain).map_err(|error| error.to_string())?;
        match frame {
            Frame::Heard(next) => inner.confirm(next).await,
            Frame::Again(next) => inner.again(next).await,
            Frame::Close(reason) => {
                // Whoever says it waits until it was heard.
                self.confirm(inner).await;
                return Err(reason);
            }
            frame => take(inner, frame)?,
        }
        self.bytes += message.len();
        if self.opener.next() - self.confirmed >= CONFIRMED.0 || self.bytes >= CONFIRMED.1 {
            self.confirm(inner).await;
        }
        Ok(())
    }
}

/// Takes what is not about messages themselves; says why the channel cannot go on.
fn take(inner: &Inner, frame: Frame) -> Result<(), String> {
    match frame {
        Frame::Credit(count) => {
            let most = (WINDOW as usize).saturating_sub(inner.credit.available_permits());
            inner.credit.add_permits((count as usize).min(most));
        }
        frame => {
            lock(&inner.heard).push(frame)?;
            inner.news.notify_one();
        }
    }
    Ok(())
}
