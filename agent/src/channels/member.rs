//! The clients that are attached to a session: their outgoing queues, and the frames that they
//! send.
//!
//! Each has its own queue, so that the session never waits for a client; the session limits the
//! queue's length.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_channel::frame::Attached;
use muster_channel::{Channel, ChannelEnded, Frame, MAX_CHUNK_BYTES, Receiver, Sender};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Maximum size of queued output of a channel, including the output that is being sent, in bytes.
const MAX_QUEUED_OUTPUT_BYTES: usize = 64 * 1024;
/// Timeout for sending the last frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A channel that is attached to a session.
#[derive(Debug)]
pub(super) struct Member {
    /// Whether it is read-only: it sends no input and no resizes.
    pub(super) is_read_only: bool,
    /// Whether it has missed output.
    pub(super) is_behind: bool,
    /// Time since which it has accepted no output.
    pub(super) stalled_since: Option<Instant>,
    pub(super) outgoing: Arc<OutgoingQueue>,
}

/// The outgoing queue of a channel.
#[derive(Debug)]
pub(super) struct OutgoingQueue {
    queue: Mutex<Queue>,
    /// Notified when a frame was added.
    added: Notify,
    /// Notified when output was sent; the session waits for it.
    sent: Arc<Notify>,
    /// Canceled when no more frames will be added.
    closing: CancellationToken,
    /// Canceled when the channel must end without sending the rest.
    aborted: CancellationToken,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// Size of the output that was not sent yet, including the output that is being sent.
    unsent_output_bytes: usize,
    end_reason: Option<String>,
}

impl OutgoingQueue {
    pub(super) fn new(taken: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            added: Notify::new(),
            sent: taken,
            closing: CancellationToken::new(),
            aborted: CancellationToken::new(),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Queues a piece of output.
    pub(super) fn push_output(&self, bytes: Bytes) {
        let mut queue = self.queue();
        queue.unsent_output_bytes += bytes.len();
        // A terminal produces small pieces; merging those that wait is much cheaper.
        match queue.frames.back_mut() {
            Some(Frame::Data(last)) if last.len() + bytes.len() <= MAX_CHUNK_BYTES => {
                *last = [&last[..], &bytes].concat().into();
            }
            _ => queue.frames.push_back(Frame::Data(bytes)),
        }
        drop(queue);
        self.added.notify_one();
    }

    /// Queues any other frame.
    pub(super) fn push(&self, frame: Frame) {
        self.queue().frames.push_back(frame);
        self.added.notify_one();
    }

    /// Queues the list of attached clients; replaces an older one that was not sent.
    pub(super) fn push_attached(&self, attached: Attached) {
        self.queue().frames.retain(|frame| !matches!(frame, Frame::Attached(_)));
        self.push(Frame::Attached(attached));
    }

    /// Whether output may be queued.
    pub(super) fn can_queue_output(&self) -> bool {
        self.queue().unsent_output_bytes < MAX_QUEUED_OUTPUT_BYTES
    }

    /// Whether all output was sent.
    pub(super) fn is_drained(&self) -> bool {
        self.queue().unsent_output_bytes == 0
    }

    /// Ends the channel after all queued frames were sent.
    pub(super) fn end(&self, reason: &str) {
        self.queue().end_reason.get_or_insert_with(|| reason.to_owned());
        self.closing.cancel();
        self.added.notify_one();
    }

    /// Ends the channel without sending the queued frames.
    pub(super) fn abort(&self, reason: &str) {
        self.end(reason);
        self.aborted.cancel();
    }

    fn end_reason(&self) -> String {
        self.queue().end_reason.clone().unwrap_or_default()
    }

    fn next(&self) -> Option<Frame> {
        self.queue().frames.pop_front()
    }

    fn mark_sent(&self, count: usize) {
        self.queue().unsent_output_bytes -= count;
        self.sent.notify_one();
    }

    /// Sends the queued frames until the queue ends; an error if the channel ends first.
    async fn drain(&self, sender: &Sender) -> Result<(), ChannelEnded> {
        loop {
            match self.next() {
                Some(Frame::Data(bytes)) => {
                    let count = bytes.len();
                    sender.send_data(bytes).await?;
                    self.mark_sent(count);
                }
                Some(frame) => sender.send(frame).await?,
                None if self.closing.is_cancelled() => return Ok(()),
                None => self.added.notified().await,
            }
        }
    }
}

/// The session's receiver of its members' frames, by their numbers.
#[derive(Clone, Debug)]
pub(super) struct SessionInbox {
    pub(super) frames: mpsc::Sender<(u64, Frame)>,
    pub(super) departures: mpsc::UnboundedSender<(u64, String)>,
}

/// Sends and receives the frames of a member's channel, until it has ended.
pub(super) async fn run_member(
    number: u64,
    channel: Channel,
    outgoing: Arc<OutgoingQueue>,
    inbox: SessionInbox,
    _permit: OwnedSemaphorePermit,
) {
    let Channel { sender, mut receiver } = channel;
    let late = async {
        outgoing.closing.cancelled().await;
        sleep(CLOSE_TIMEOUT).await;
    };
    let why = tokio::select! {
        done = outgoing.drain(&sender) => done.err().map(|ended| ended.0),
        why = listen(number, &mut receiver, &inbox.frames) => Some(why),
        () = outgoing.aborted.cancelled() => None,
        () = late => None,
    };
    let why = why.unwrap_or_else(|| outgoing.end_reason());
    sender.close(&why).await;
    // The session may have ended.
    let _ = inbox.departures.send((number, why));
}

/// Forwards received frames; the session accepts them at its own pace.
async fn listen(
    number: u64,
    receiver: &mut Receiver,
    frames: &mpsc::Sender<(u64, Frame)>,
) -> String {
    loop {
        match receiver.next().await {
            Ok(frame) => {
                if frames.send((number, frame)).await.is_err() {
                    // The session has ended; its last frames are still being sent.
                    std::future::pending::<()>().await;
                }
            }
            Err(closed) => return closed.0,
        }
    }
}
