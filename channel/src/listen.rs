//! The receiving side of a channel: messages are decrypted in order, missing ones are requested, and
//! received ones are acknowledged.

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

/// Keep-alive interval of a side that sends nothing else.
const PING: Duration = Duration::from_secs(3);
/// Interval at which received messages are acknowledged.
const BEAT: Duration = Duration::from_millis(500);
/// Delay after which a side that sends nothing else sends a keep-alive while its last message is
/// unacknowledged: so the other side notices a loss.
const PROBE: Duration = Duration::from_secs(1);
/// Silence after which the other side is considered unreachable.
const SILENCE: Duration = Duration::from_secs(9);
/// Reason of the end of a channel whose other side is unreachable.
pub(crate) const SILENT: &str = "no message arrived from the peer for 9 s";
/// Number of messages, and of bytes, after which they are acknowledged.
const CONFIRMED: (u64, usize) = (32, 256 * 1024);
/// First and largest delay between requests for missing messages; it doubles.
const ASK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The next message, if there is a subscription.
async fn next(subscriber: &mut Option<Subscriber>) -> Option<async_nats::Message> {
    match subscriber {
        Some(subscriber) => subscriber.next().await,
        None => std::future::pending().await,
    }
}

/// Receives until the channel ends.
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
                // This connection has ended; another one may follow.
                None => {
                    subscriber = None;
                    Ok(())
                }
            },
            Some((client, other)) = others.recv() => {
                inner.outgoing.lock().await.client = client;
                subscriber = Some(other);
                // Messages that the other side has sent meanwhile may be lost.
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
                    Err(SILENT.to_owned())
                } else {
                    let quiet = lock(&inner.said).elapsed();
                    let is_probe_due = inner.has_unacked() && quiet >= PROBE;
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

/// Repeats the last messages until the other side has received them.
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
            // No later message would show that the last one was lost.
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

/// What was received and acknowledged.
struct Ear {
    opener: Opener,
    /// All messages before this one were acknowledged.
    confirmed: u64,
    /// Bytes received since.
    bytes: usize,
    /// A message was received since that the other side keeps until it is acknowledged.
    is_due: bool,
    /// A message was lost, or may have been.
    is_missing: bool,
    /// When it was requested.
    asked: Option<Instant>,
    /// Delay until the next request.
    wait: Duration,
}

impl Ear {
    /// Acknowledges the received messages.
    async fn confirm(&mut self, inner: &Inner) {
        (self.confirmed, self.bytes, self.is_due) = (self.opener.next(), 0, false);
        let _ = inner.say(&Frame::Heard(self.confirmed)).await;
    }

    /// When to request missing messages.
    fn ask_at(&self) -> Instant {
        self.asked.map_or_else(Instant::now, |asked| asked + self.wait)
    }

    /// Requests missing messages.
    async fn ask(&mut self, inner: &Inner) {
        if self.asked.is_some() {
            self.wait = (self.wait * 2).min(ASK.1);
        }
        self.asked = Some(Instant::now());
        let _ = inner.say(&Frame::Again(self.opener.next())).await;
    }

    /// A message before this one is missing. Acknowledgments and requests in it take effect immediately,
    /// because both sides may miss messages.
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

    /// Processes one message; an error ends the channel.
    async fn hear(&mut self, inner: &Inner, message: &[u8]) -> Result<(), String> {
        let plain = match self.opener.open(message) {
            Ok(plain) => plain,
            // A retransmission that is not needed.
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
                // The sender retransmits it until it is acknowledged.
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

/// Processes a frame that is not about messages; an error ends the channel.
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
