//! The clients that are attached to a session: their outgoing queues, and the frames that they
//! send.
//!
//! Each has its own queue, so that the session never waits for a client; the session limits the
//! queue's length.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use muster_channel::frame::Attached;
use muster_channel::{MAX_CHUNK_BYTES, Channel, Frame, Receiver, Sender};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Maximum size of queued output of a channel, including the output that is being sent, in bytes.
const OUTPUT: usize = 64 * 1024;
/// Timeout for sending the last frames.
const LAST: Duration = Duration::from_secs(10);

/// A channel that is attached to a session.
#[derive(Debug)]
pub(super) struct Member {
    /// Whether it is read-only: it sends no input and no resizes.
    pub(super) watches: bool,
    /// Whether it has missed output.
    pub(super) is_behind: bool,
    /// Time since which it has accepted no output.
    pub(super) stalled: Option<Instant>,
    pub(super) outlet: Arc<Outlet>,
}

/// The outgoing queue of a channel.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: Mutex<Queue>,
    /// Notified when a frame was added.
    news: Notify,
    /// Notified when output was sent; the session waits for it.
    taken: Arc<Notify>,
    /// Canceled when no more frames will be added.
    ends: CancellationToken,
    /// Canceled when the channel must end without sending the rest.
    cut: CancellationToken,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// Size of the output that was not sent yet, including the output that is being sent.
    output: usize,
    why: Option<String>,
}

impl Outlet {
    pub(super) fn new(taken: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            news: Notify::new(),
            taken,
            ends: CancellationToken::new(),
            cut: CancellationToken::new(),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a piece of output.
    pub(super) fn output(&self, bytes: Bytes) {
        let mut queue = self.queue();
        queue.output += bytes.len();
        // A terminal produces small pieces; merging those that wait is much cheaper.
        match queue.frames.back_mut() {
            Some(Frame::Data(last)) if last.len() + bytes.len() <= MAX_CHUNK_BYTES => {
                *last = [&last[..], &bytes].concat().into();
            }
            _ => queue.frames.push_back(Frame::Data(bytes)),
        }
        drop(queue);
        self.news.notify_one();
    }

    /// Queues any other frame.
    pub(super) fn say(&self, frame: Frame) {
        self.queue().frames.push_back(frame);
        self.news.notify_one();
    }

    /// Queues the list of attached clients; replaces an older one that was not sent.
    pub(super) fn attached(&self, attached: Attached) {
        self.queue().frames.retain(|frame| !matches!(frame, Frame::Attached(_)));
        self.say(Frame::Attached(attached));
    }

    /// Whether output may be queued.
    pub(super) fn is_free(&self) -> bool {
        self.queue().output < OUTPUT
    }

    /// Whether all output was sent.
    pub(super) fn is_drained(&self) -> bool {
        self.queue().output == 0
    }

    /// Ends the channel after all queued frames were sent.
    pub(super) fn end(&self, why: &str) {
        self.queue().why.get_or_insert_with(|| why.to_owned());
        self.ends.cancel();
        self.news.notify_one();
    }

    /// Ends the channel without sending the queued frames.
    pub(super) fn cut(&self, why: &str) {
        self.end(why);
        self.cut.cancel();
    }

    fn why(&self) -> String {
        self.queue().why.clone().unwrap_or_default()
    }

    fn next(&self) -> Option<Frame> {
        self.queue().frames.pop_front()
    }

    fn was_taken(&self, count: usize) {
        self.queue().output -= count;
        self.taken.notify_one();
    }

    /// Sends the queued frames until the queue ends; an error if the channel ends first.
    async fn drain(&self, sender: &Sender) -> Result<(), String> {
        loop {
            match self.next() {
                Some(Frame::Data(bytes)) => {
                    let count = bytes.len();
                    sender.send_data(bytes).await.map_err(|gone| gone.0)?;
                    self.was_taken(count);
                }
                Some(frame) => sender.send(frame).await.map_err(|gone| gone.0)?,
                None if self.ends.is_cancelled() => return Ok(()),
                None => self.news.notified().await,
            }
        }
    }
}

/// The session's receiver of its members' frames, by their numbers.
#[derive(Clone, Debug)]
pub(super) struct Ear {
    pub(super) said: mpsc::Sender<(u64, Frame)>,
    pub(super) left: mpsc::UnboundedSender<(u64, String)>,
}

/// Sends and receives the frames of a member's channel, until it has ended.
pub(super) async fn carry(
    number: u64,
    channel: Channel,
    outlet: Arc<Outlet>,
    ear: Ear,
    _place: OwnedSemaphorePermit,
) {
    let Channel { sender, mut receiver } = channel;
    let late = async {
        outlet.ends.cancelled().await;
        sleep(LAST).await;
    };
    let why = tokio::select! {
        done = outlet.drain(&sender) => done.err(),
        why = listen(number, &mut receiver, &ear.said) => Some(why),
        () = outlet.cut.cancelled() => None,
        () = late => None,
    };
    let why = why.unwrap_or_else(|| outlet.why());
    sender.close(&why).await;
    // The session may have ended.
    let _ = ear.left.send((number, why));
}

/// Forwards received frames; the session accepts them at its own pace.
async fn listen(number: u64, receiver: &mut Receiver, said: &mpsc::Sender<(u64, Frame)>) -> String {
    loop {
        match receiver.next().await {
            Ok(frame) => {
                if said.send((number, frame)).await.is_err() {
                    // The session has ended; its last frames are still being sent.
                    std::future::pending::<()>().await;
                }
            }
            Err(gone) => return gone.0,
        }
    }
}
