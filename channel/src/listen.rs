//! The side of a channel that hears: what comes is opened in its order, what is missing is asked for,
//! and what was heard is confirmed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::WINDOW;
use crate::frame::Frame;
use crate::link::{Inner, lock};
use crate::seal::{Opener, SealError};
use crate::window::Window;

/// A side that has nothing to say says so often that it lives.
const PING: Duration = Duration::from_secs(3);
/// What was heard and not confirmed is looked for this often.
const BEAT: Duration = Duration::from_millis(500);
/// When what was said last may be lost, a side that says nothing else says so soon that it lives: that
/// tells the other one what it misses.
const PROBE: Duration = Duration::from_secs(1);
/// A side that was not heard for so long is gone.
const SILENCE: Duration = Duration::from_secs(9);
/// What was heard is confirmed after so many messages, or bytes.
const CONFIRMED: (u64, usize) = (32, 256 * 1024);
/// What is missing is asked for after this, then after twice as long, and so on up to a second.
const ASK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The next message, if there is anybody who brings it.
async fn next(subscriber: &mut Option<Subscriber>) -> Option<async_nats::Message> {
    match subscriber {
        Some(subscriber) => subscriber.next().await,
        None => std::future::pending().await,
    }
}

/// Hears, until the channel is over.
pub(crate) async fn listen(
    inner: Arc<Inner>,
    subscriber: Subscriber,
    mut others: mpsc::UnboundedReceiver<(Client, Subscriber)>,
    opener: Opener,
    mut window: Window,
) {
    let mut subscriber = Some(subscriber);
    let mut ear = Ear {
        opener,
        confirmed: 0,
        bytes: 0,
        is_due: false,
        is_missing: false,
        asked: None,
        wait: ASK.0,
    };
    let mut last = Instant::now();
    let mut beat = tokio::time::interval(BEAT);
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
                let credit = window.credit(count, Instant::now().into_std());
                inner.due.store(window.due(), Ordering::Relaxed);
                if credit > 0 {
                    let _ = inner.say(&Frame::Credit(credit)).await;
                }
                Ok(())
            }
            _ = beat.tick() => {
                if last.elapsed() > SILENCE {
                    Err("the other side is silent".to_owned())
                } else {
                    let quiet = lock(&inner.said).elapsed();
                    let is_probe_due = inner.is_unheard() && quiet >= PROBE;
                    if ear.is_due || is_probe_due || quiet >= PING {
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
    let mut beat = tokio::time::interval(PROBE);
    beat.reset();
    while !inner.outgoing.lock().await.sent.is_empty() {
        tokio::select! {
            // Nothing follows the last word that would tell that it was lost.
            _ = beat.tick() => inner.again(0).await,
            message = next(subscriber) => match message {
                Some(message) => match ear.opener.open_any(&message.payload).map(Frame::decode) {
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
    /// Something came since that the other side keeps until it is confirmed.
    is_due: bool,
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
        (self.confirmed, self.bytes, self.is_due) = (self.opener.next(), 0, false);
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
        match Frame::decode(plain) {
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
        let frame = Frame::decode(plain).map_err(|error| error.to_string())?;
        self.is_due |= !frame.is_about_messages();
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
