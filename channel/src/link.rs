//! A channel over the broker: what is said is sealed and published, what is heard is opened, counted
//! against the credit, and handed on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::frame::Frame;
use crate::seal::{Keys, Opener, Sealer};
use crate::{CHUNK, WINDOW};

/// A side that has nothing to say says so often that it lives.
const PING: Duration = Duration::from_secs(3);
/// A side that was not heard for so long is gone.
const SILENCE: Duration = Duration::from_secs(9);
/// Frames other than data that may wait to be taken; a side that says more is given up.
const WAITING: usize = 256;

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
    client: Client,
    subject: String,
    sealer: Mutex<Sealer>,
    /// How many bytes may still be said.
    credit: Semaphore,
    /// What was heard and not taken.
    heard: Lock<Heard>,
    news: Notify,
    /// Why the channel is over.
    over: Lock<Option<String>>,
    ended: CancellationToken,
    /// When this side said something last.
    said: Lock<Instant>,
}

#[derive(Debug, Default)]
struct Heard {
    frames: VecDeque<Frame>,
    /// Bytes of data in it.
    bytes: usize,
}

/// Says things on a channel; cheap to clone.
#[derive(Clone, Debug)]
pub struct Sender(Arc<Inner>);

/// Hears things on a channel. When it is dropped, the channel ends.
#[derive(Debug)]
pub struct Receiver {
    inner: Arc<Inner>,
    /// Bytes that were taken and not credited yet.
    taken: u32,
}

fn lock<T>(of: &Lock<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channel {
    /// Starts to carry a channel: what this side says goes to `subject`, what comes on `subscriber`
    /// was said by the other.
    #[must_use]
    pub fn start(client: Client, subject: String, subscriber: Subscriber, keys: Keys) -> Self {
        let inner = Arc::new(Inner {
            client,
            subject,
            sealer: Mutex::new(keys.seal),
            credit: Semaphore::new(WINDOW as usize),
            heard: Lock::default(),
            news: Notify::new(),
            over: Lock::default(),
            ended: CancellationToken::new(),
            said: Lock::new(Instant::now()),
        });
        tokio::spawn(listen(Arc::clone(&inner), subscriber, keys.open));
        Self { sender: Sender(Arc::clone(&inner)), receiver: Receiver { inner, taken: 0 } }
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
        let mut sealer = self.sealer.lock().await;
        let sealed = sealer.seal(&frame.encode()).map_err(|error| Gone(error.to_string()))?;
        *lock(&self.said) = Instant::now();
        let sent = self.client.publish(self.subject.clone(), sealed.into()).await;
        drop(sealer);
        sent.map_err(|error| {
            self.end(&format!("the broker is away: {error}"));
            self.gone()
        })
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

    /// Ends the channel, and tells the other side why.
    pub async fn close(&self, reason: &str) {
        let _ = self.0.say(&Frame::Close(reason.to_owned())).await;
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
            let frame = {
                let mut heard = lock(&self.inner.heard);
                let frame = heard.frames.pop_front();
                if let Some(Frame::Data(bytes)) = &frame {
                    heard.bytes -= bytes.len();
                }
                frame
            };
            match frame {
                Some(Frame::Data(bytes)) => {
                    self.taken += u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    if self.taken >= WINDOW / 4 && !self.inner.ended.is_cancelled() {
                        let credit = Frame::Credit(std::mem::take(&mut self.taken));
                        // One that cannot be said ends the channel; what was heard stays.
                        let _ = self.inner.say(&credit).await;
                    }
                    return Ok(Frame::Data(bytes));
                }
                Some(frame) => return Ok(frame),
                None if self.inner.ended.is_cancelled() => return Err(self.inner.gone()),
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

/// Hears, until the channel is over.
async fn listen(inner: Arc<Inner>, mut subscriber: Subscriber, mut opener: Opener) {
    let mut last = Instant::now();
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = inner.ended.cancelled() => break,
            message = subscriber.next() => {
                let Some(message) = message else {
                    inner.end("the broker is away");
                    break;
                };
                last = Instant::now();
                if let Err(reason) = hear(&inner, &mut opener, &message.payload) {
                    inner.end(&reason);
                    break;
                }
            }
            _ = beat.tick() => {
                if last.elapsed() > SILENCE {
                    inner.end("the other side is silent");
                    break;
                }
                let is_quiet = lock(&inner.said).elapsed() >= PING;
                if is_quiet && inner.say(&Frame::Ping).await.is_err() {
                    break;
                }
            }
        }
    }
    let _ = subscriber.unsubscribe().await;
}

/// Takes one message; says why the channel cannot go on.
fn hear(inner: &Inner, opener: &mut Opener, message: &[u8]) -> Result<(), String> {
    let plain = opener.open(message).map_err(|error| error.to_string())?;
    let frame = Frame::decode(&plain).map_err(|error| error.to_string())?;
    match frame {
        Frame::Ping => {}
        Frame::Credit(count) => {
            let most = (WINDOW as usize).saturating_sub(inner.credit.available_permits());
            inner.credit.add_permits((count as usize).min(most));
        }
        Frame::Close(reason) => return Err(reason),
        frame => {
            let mut heard = lock(&inner.heard);
            if let Frame::Data(bytes) = &frame {
                heard.bytes += bytes.len();
            }
            let others = heard.frames.iter().filter(|one| !matches!(one, Frame::Data(_))).count();
            if heard.bytes > WINDOW as usize || others > WAITING {
                return Err("the other side says more than it may".to_owned());
            }
            heard.frames.push_back(frame);
            drop(heard);
            inner.news.notify_one();
        }
    }
    Ok(())
}
