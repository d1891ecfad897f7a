//! Who is attached to a session: what is to be said to them, and what they say.
//!
//! Each has a queue of its own, so that the session waits for nobody; how long it may get is the
//! session's to decide.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use muster_channel::frame::Attached;
use muster_channel::{CHUNK, Channel, Frame, Receiver, Sender};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Bytes of output that may wait for a channel, with those that are being said.
const OUTPUT: usize = 64 * 1024;
/// What was said last may take so long to be taken.
const LAST: Duration = Duration::from_secs(10);

/// A channel that is attached to a session.
#[derive(Debug)]
pub(super) struct Member {
    /// It looks on: no input, no resizing.
    pub(super) watches: bool,
    /// It has missed output.
    pub(super) is_behind: bool,
    /// Since when it takes nothing.
    pub(super) stalled: Option<Instant>,
    pub(super) outlet: Arc<Outlet>,
}

/// What is to be said on a channel.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: Mutex<Queue>,
    /// There is something.
    news: Notify,
    /// Something was taken; the session listens.
    taken: Arc<Notify>,
    /// There will be nothing more.
    ends: CancellationToken,
    /// Nobody waits until it is taken.
    cut: CancellationToken,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// Bytes of output that were not taken yet, with those that are being said.
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

    /// Says a piece of output.
    pub(super) fn output(&self, bytes: Bytes) {
        let mut queue = self.queue();
        queue.output += bytes.len();
        // A terminal gives little at a time; what waits goes together, which is much cheaper.
        match queue.frames.back_mut() {
            Some(Frame::Data(last)) if last.len() + bytes.len() <= CHUNK => {
                *last = [&last[..], &bytes].concat().into();
            }
            _ => queue.frames.push_back(Frame::Data(bytes)),
        }
        drop(queue);
        self.news.notify_one();
    }

    /// Says anything else.
    pub(super) fn say(&self, frame: Frame) {
        self.queue().frames.push_back(frame);
        self.news.notify_one();
    }

    /// Says who is attached; only the newest word on that counts.
    pub(super) fn attached(&self, attached: Attached) {
        self.queue().frames.retain(|frame| !matches!(frame, Frame::Attached(_)));
        self.say(Frame::Attached(attached));
    }

    /// May output be said?
    pub(super) fn is_free(&self) -> bool {
        self.queue().output < OUTPUT
    }

    /// Was all output taken?
    pub(super) fn is_drained(&self) -> bool {
        self.queue().output == 0
    }

    /// Nothing more will be said; then the channel ends.
    pub(super) fn end(&self, why: &str) {
        self.queue().why.get_or_insert_with(|| why.to_owned());
        self.ends.cancel();
        self.news.notify_one();
    }

    /// Ends the channel, whatever was not taken.
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

    /// Says what there is, until nothing more will be; an error when the channel is over before.
    async fn drain(&self, sender: &Sender) -> Result<(), String> {
        loop {
            match self.next() {
                Some(Frame::Data(bytes)) => {
                    let count = bytes.len();
                    sender.data(bytes).await.map_err(|gone| gone.0)?;
                    self.was_taken(count);
                }
                Some(frame) => sender.say(frame).await.map_err(|gone| gone.0)?,
                None if self.ends.is_cancelled() => return Ok(()),
                None => self.news.notified().await,
            }
        }
    }
}

/// Where a session hears its members: by their numbers.
#[derive(Clone, Debug)]
pub(super) struct Ear {
    pub(super) said: mpsc::Sender<(u64, Frame)>,
    pub(super) left: mpsc::UnboundedSender<(u64, String)>,
}

/// Carries what is said and heard on a member's channel, until it is over.
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
    // The session may be over.
    let _ = ear.left.send((number, why));
}

/// Hands on what is heard; the session takes it when it can.
async fn listen(number: u64, receiver: &mut Receiver, said: &mpsc::Sender<(u64, Frame)>) -> String {
    loop {
        match receiver.next().await {
            Ok(frame) => {
                if said.send((number, frame)).await.is_err() {
                    // The session is over; what it said last is on its way.
                    std::future::pending::<()>().await;
                }
            }
            Err(gone) => return gone.0,
        }
    }
}
