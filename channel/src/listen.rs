//! The receiving side of a channel: messages are decrypted in order, missing ones are requested, and
//! received ones are acknowledged.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::MAX_WINDOW;
use crate::frame::Frame;
use crate::seal::{Opener, SealError};
use crate::state::{ChannelState, lock};
use crate::window::Window;

/// Keep-alive interval of a side that sends nothing else.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// Interval at which received messages are acknowledged.
const ACK_INTERVAL: Duration = Duration::from_millis(500);
/// Delay after which a side that sends nothing else sends a keep-alive while its last message is
/// unacknowledged: so the other side notices a loss.
const PROBE_DELAY: Duration = Duration::from_secs(1);
/// Silence after which the other side is considered unreachable.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(9);
/// Reason of the end of a channel whose other side is unreachable.
pub(crate) const SILENT: &str = "no message arrived from the peer for 9 s";
/// Number of messages, and of bytes, after which they are acknowledged.
const ACK_AFTER: (u64, usize) = (32, 256 * 1024);
/// First and largest delay between requests for missing messages; it doubles.
const RETRANSMIT_REQUEST_DELAY: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(1));

/// The next message, if there is a subscription.
async fn next(subscriber: &mut Option<Subscriber>) -> Option<async_nats::Message> {
    match subscriber {
        Some(subscriber) => subscriber.next().await,
        None => std::future::pending().await,
    }
}

/// Receives until the channel ends.
pub(crate) async fn listen(
    state: Arc<ChannelState>,
    subscriber: Subscriber,
    mut new_connections: mpsc::UnboundedReceiver<(Client, Subscriber)>,
    opener: Opener,
    mut window: Window,
) {
    let mut subscriber = Some(subscriber);
    let mut received = ReceiveState::new(opener);
    let mut last = Instant::now();
    let mut interval = tokio::time::interval(ACK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let result = tokio::select! {
            () = state.ended.cancelled() => break,
            message = next(&mut subscriber) => match message {
                Some(message) => {
                    last = Instant::now();
                    received.receive(&state, &message.payload).await
                }
                // This connection has ended; another one may follow.
                None => {
                    subscriber = None;
                    Ok(())
                }
            },
            Some((client, other)) = new_connections.recv() => {
                state.outgoing.lock().await.client = client;
                subscriber = Some(other);
                // Messages that the other side has sent meanwhile may be lost.
                (received.has_missing, received.requested_at) = (true, None);
                received.request_missing(&state).await;
                Ok(())
            }
            () = sleep_until(received.next_request_at()), if received.has_missing => {
                received.request_missing(&state).await;
                Ok(())
            }
            () = state.credit_due.notified() => {
                send_credit(&state, &mut window).await;
                Ok(())
            }
            _ = interval.tick() => received.check(&state, last.elapsed()).await,
        };
        if let Err(reason) = result {
            state.end(&reason);
            break;
        }
    }
    if state.is_closed.load(Ordering::Relaxed) {
        let _ = timeout(
            SILENCE_TIMEOUT,
            wait_for_final_acks(&state, &mut subscriber, &mut new_connections, &mut received),
        )
        .await;
    }
    if let Some(mut subscriber) = subscriber {
        let _ = subscriber.unsubscribe().await;
    }
}

/// Lets the other side send as much as was consumed.
async fn send_credit(state: &ChannelState, window: &mut Window) {
    let count = state.consumed.swap(0, Ordering::Relaxed);
    let credit = window.credit(count, Instant::now().into_std());
    state.credit_threshold.store(window.due(), Ordering::Relaxed);
    if credit > 0 {
        let _ = state.send(&Frame::Credit(credit)).await;
    }
}

/// Repeats the last messages until the other side has received them.
async fn wait_for_final_acks(
    state: &ChannelState,
    subscriber: &mut Option<Subscriber>,
    new_connections: &mut mpsc::UnboundedReceiver<(Client, Subscriber)>,
    received: &mut ReceiveState,
) {
    let mut interval = tokio::time::interval(PROBE_DELAY);
    interval.reset();
    while !state.outgoing.lock().await.sent.is_empty() {
        tokio::select! {
            // No later message would show that the last one was lost.
            _ = interval.tick() => state.retransmit(0).await,
            message = next(subscriber) => match message {
                Some(message) => {
                    let plain = received.opener.open_any(&message.payload);
                    match plain.map(|plain| Frame::decode(&plain)) {
                        Ok(Ok(Frame::Received(next))) => state.confirm(next).await,
                        Ok(Ok(Frame::Retransmit(next))) => state.retransmit(next).await,
                        Ok(Ok(Frame::Close(_))) => return,
                        _ => {}
                    }
                }
                None => *subscriber = None,
            },
            Some((client, other)) = new_connections.recv() => {
                state.outgoing.lock().await.client = client;
                *subscriber = Some(other);
                state.retransmit(0).await;
            }
        }
    }
}

/// What was received and acknowledged.
struct ReceiveState {
    opener: Opener,
    /// All messages before this one were acknowledged.
    acked_before: u64,
    /// Bytes received since.
    bytes: usize,
    /// A message was received since that the other side keeps until it is acknowledged.
    is_ack_due: bool,
    /// A message was lost, or may have been.
    has_missing: bool,
    /// When it was requested.
    requested_at: Option<Instant>,
    /// Delay until the next request.
    request_delay: Duration,
}

impl ReceiveState {
    const fn new(opener: Opener) -> Self {
        Self {
            opener,
            acked_before: 0,
            bytes: 0,
            is_ack_due: false,
            has_missing: false,
            requested_at: None,
            request_delay: RETRANSMIT_REQUEST_DELAY.0,
        }
    }

    /// Acknowledges, probes or keeps the connection alive if that is due; an error ends the channel.
    async fn check(&mut self, state: &ChannelState, silence: Duration) -> Result<(), String> {
        if silence > SILENCE_TIMEOUT {
            return Err(SILENT.to_owned());
        }
        let quiet = lock(&state.last_sent).elapsed();
        let is_probe_due = state.has_unacked() && quiet >= PROBE_DELAY;
        if self.is_ack_due || is_probe_due || quiet >= KEEP_ALIVE_INTERVAL {
            self.acknowledge(state).await;
        }
        Ok(())
    }

    /// Acknowledges the received messages.
    async fn acknowledge(&mut self, state: &ChannelState) {
        (self.acked_before, self.bytes, self.is_ack_due) = (self.opener.next(), 0, false);
        let _ = state.send(&Frame::Received(self.acked_before)).await;
    }

    /// When to request missing messages.
    fn next_request_at(&self) -> Instant {
        self.requested_at
            .map_or_else(Instant::now, |requested_at| requested_at + self.request_delay)
    }

    /// Requests missing messages.
    async fn request_missing(&mut self, state: &ChannelState) {
        if self.requested_at.is_some() {
            self.request_delay = (self.request_delay * 2).min(RETRANSMIT_REQUEST_DELAY.1);
        }
        self.requested_at = Some(Instant::now());
        let _ = state.send(&Frame::Retransmit(self.opener.next())).await;
    }

    /// A message before this one is missing. Acknowledgments and requests in it take effect immediately,
    /// because both sides may miss messages.
    async fn receive_out_of_order(
        &mut self,
        state: &ChannelState,
        message: &[u8],
    ) -> Result<(), String> {
        let plain = self.opener.open_ahead(message).map_err(|error| error.to_string())?;
        match Frame::decode(&plain) {
            Ok(Frame::Received(next)) => state.confirm(next).await,
            Ok(Frame::Retransmit(next)) => state.retransmit(next).await,
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        self.has_missing = true;
        Ok(())
    }

    /// Processes one message; an error ends the channel.
    async fn receive(&mut self, state: &ChannelState, message: &[u8]) -> Result<(), String> {
        let plain = match self.opener.open(message) {
            Ok(plain) => plain,
            // A retransmission that is not needed.
            Err(SealError::Order { expected, found }) if found < expected => return Ok(()),
            Err(SealError::Order { .. }) => return self.receive_out_of_order(state, message).await,
            Err(error) => return Err(error.to_string()),
        };
        (self.has_missing, self.request_delay) = (false, RETRANSMIT_REQUEST_DELAY.0);
        let frame = Frame::decode(&plain).map_err(|error| error.to_string())?;
        self.is_ack_due |= !frame.is_delivery_control();
        match frame {
            Frame::Received(next) => state.confirm(next).await,
            Frame::Retransmit(next) => state.retransmit(next).await,
            Frame::Close(reason) => {
                // The sender retransmits it until it is acknowledged.
                self.acknowledge(state).await;
                return Err(reason);
            }
            frame => handle_frame(state, frame)?,
        }
        self.bytes += message.len();
        if self.opener.next() - self.acked_before >= ACK_AFTER.0 || self.bytes >= ACK_AFTER.1 {
            self.acknowledge(state).await;
        }
        Ok(())
    }
}

/// Processes a frame that is not about messages; an error ends the channel.
fn handle_frame(state: &ChannelState, frame: Frame) -> Result<(), String> {
    match frame {
        Frame::Credit(count) => {
            let most = (MAX_WINDOW as usize).saturating_sub(state.credit.available_permits());
            state.credit.add_permits((count as usize).min(most));
        }
        frame => {
            lock(&state.received).push(frame)?;
            state.received_notify.notify_one();
        }
    }
    Ok(())
}
