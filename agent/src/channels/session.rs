//! A session: a program with a terminal, and the clients that are attached to it. It outlives its
//! channels for a limited time.
//!
//! Invariant: the session never waits for a client. Frames from and to members are queued in their
//! own tasks; the program waits only while clients with input do not accept its output, and no
//! longer than they may stall.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use muster_channel::frame::{Attached, Exit};
use muster_channel::{Channel, Frame};
use muster_schemas::wire::TerminalSize;
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::member::{Ear, Member, Outlet, carry};
use super::reason;
use super::registry::{Channels, Reserved};
use super::screen::Screen;
use super::terminal::Terminal;
use crate::operations::{ended, has_ended};

/// Maximum size of input that waits for the program, in bytes.
const INPUT: usize = 64 * 1024;
/// Interval between attempts to write waiting input, in case the readiness event was lost.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// Delay between reads while no client is attached, so that a program with much output does not
/// starve the rest of the agent.
const BRAKE: Duration = Duration::from_millis(5);
/// Quiet time after which the rest of the output is complete, when the program has ended.
const REST: Duration = Duration::from_millis(200);
/// Maximum time of reading the rest of the output.
const MOST_REST: Duration = Duration::from_secs(15);
/// Time until SIGKILL when the agent stops.
const STOPPING: Duration = Duration::from_millis(500);
/// Time after SIGKILL at which remaining processes are abandoned.
const GIVEN_UP: Duration = Duration::from_secs(2);
/// End of input, as typed in a terminal.
const EOT: &[u8] = b"\x04";

/// A request to a session.
#[derive(Debug)]
pub(super) enum Ask {
    /// Attaches another channel.
    Attach(Attach),
    /// Ends the session; the sender is notified when it has ended.
    End(oneshot::Sender<()>),
}

/// A channel that attaches.
#[derive(Debug)]
pub(super) struct Attach {
    pub(super) channel: Channel,
    pub(super) place: OwnedSemaphorePermit,
    pub(super) watches: bool,
    pub(super) size: TerminalSize,
}

impl Ask {
    /// Declines a request because the session has ended.
    pub(super) async fn decline(self) {
        if let Self::Attach(attach) = self {
            attach.channel.sender.close(reason::SESSION_ENDED).await;
        }
    }
}

/// The state of a session that is being ended.
struct Ending {
    why: String,
    background: Vec<Pid>,
    kill_at: Instant,
    is_killed: bool,
}

/// A session.
pub(super) struct Session {
    channels: Arc<Channels>,
    slot: Reserved,
    requests: mpsc::Receiver<Ask>,
    terminal: Terminal,
    screen: Screen,
    size: TerminalSize,
    grace: Duration,
    members: BTreeMap<u64, Member>,
    next: u64,
    input: BytesMut,
    ear: Ear,
    said: mpsc::Receiver<(u64, Frame)>,
    left: mpsc::UnboundedReceiver<(u64, String)>,
    /// Notified when a member's output was sent.
    taken: Arc<Notify>,
    children: Option<Signal>,
    /// Time since which no client is attached.
    alone: Option<Instant>,
    ending: Option<Ending>,
    enders: Vec<oneshot::Sender<()>>,
    /// Whether no process has the terminal open.
    is_silent: bool,
    /// When the program ended, and when its terminal was last read.
    over: Option<(Instant, Instant)>,
}

/// An event of the session's loop.
enum News {
    Ask(Ask),
    Said(u64, Frame),
    Left(u64, String),
    Taken,
    Output(Bytes),
    Silent,
    Written(usize),
    Over,
    Time,
    Stop,
}

impl Session {
    pub(super) fn new(
        channels: Arc<Channels>,
        slot: Reserved,
        requests: mpsc::Receiver<Ask>,
        terminal: Terminal,
        size: TerminalSize,
        grace: Duration,
    ) -> Self {
        let (said_in, said) = mpsc::channel(1);
        let (left_in, left) = mpsc::unbounded_channel();
        Self {
            channels,
            slot,
            requests,
            terminal,
            screen: Screen::new(size),
            size,
            grace,
            members: BTreeMap::new(),
            next: 0,
            input: BytesMut::new(),
            ear: Ear { said: said_in, left: left_in },
            said,
            left,
            taken: Arc::new(Notify::new()),
            children: signal(SignalKind::child()).ok(),
            alone: None,
            ending: None,
            enders: Vec::new(),
            is_silent: false,
            over: None,
        }
    }

    /// Runs until the program has ended; returns its exit.
    pub(super) async fn run(mut self, first: Attach) -> Exit {
        self.attach(first, true);
        loop {
            self.look_after_members();
            if self.is_over() {
                break;
            }
            let news = self.news().await;
            self.on(news).await;
        }
        self.finish().await
    }

    /// Waits for the next event.
    async fn news(&mut self) -> News {
        let wake = self.wake_at();
        let may_read = !self.is_silent && self.members.values().all(Member::may_be_written);
        let may_type = self.input.len() < INPUT;
        let Self {
            requests: asks, said, left, taken, terminal, children, channels, input, over, ending, ..
        } = self;
        let pid = terminal.pid();
        tokio::select! {
            Some(ask) = asks.recv() => News::Ask(ask),
            Some((number, frame)) = said.recv(), if may_type => News::Said(number, frame),
            Some((number, why)) = left.recv() => News::Left(number, why),
            () = taken.notified() => News::Taken,
            read = terminal.read(), if may_read => match read {
                Ok(bytes) if !bytes.is_empty() => News::Output(bytes),
                Ok(_) | Err(_) => News::Silent,
            },
            written = terminal.write(&input[..]), if !input.is_empty() => {
                // No process reads the input.
                News::Written(written.unwrap_or(usize::MAX))
            }
            () = ended(pid, children), if over.is_none() => News::Over,
            () = channels.stop.cancelled(), if ending.is_none() => News::Stop,
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => News::Time,
        }
    }

    async fn on(&mut self, news: News) {
        match news {
            News::Ask(Ask::Attach(attach)) => self.attach(attach, false),
            News::Ask(Ask::End(done)) => {
                self.enders.push(done);
                self.hang_up(reason::SESSION_TERMINATED, self.channels.options.kill_after);
            }
            News::Said(number, frame) => self.on_frame(number, frame),
            News::Left(number, why) => self.on_left(number, &why),
            News::Taken => {}
            News::Output(bytes) => self.on_output(bytes).await,
            News::Silent => self.is_silent = true,
            News::Written(count) => self.input.advance(count.min(self.input.len())),
            News::Over => self.over = Some((Instant::now(), Instant::now())),
            News::Time => self.on_time(),
            News::Stop => self.hang_up(reason::AGENT_STOPS, STOPPING),
        }
    }

    /// Returns the time at which the next action is due.
    fn wake_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let patience = self.channels.options.patience;
        let stalled = self.members.values().filter_map(|member| member.stalled).min();
        let ending = self.ending.as_ref().map(|ending| {
            if ending.is_killed { ending.kill_at + GIVEN_UP } else { ending.kill_at }
        });
        [
            stalled.map(|since| since + patience),
            self.alone.filter(|_| self.ending.is_none()).map(|since| since + self.grace),
            ending,
            (!self.input.is_empty()).then(|| now + TRY_AGAIN),
            self.over.map(|(ended, read)| (read + REST).min(ended + MOST_REST)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if !self.input.is_empty() {
            let count = self.terminal.write_now(&self.input);
            self.input.advance(count.min(self.input.len()));
        }
        let patience = self.channels.options.patience;
        for member in self.members.values() {
            if member.stalled.is_some_and(|since| now >= since + patience) {
                member
                    .outlet
                    .cut(&format!("the client accepted no output for {} s", patience.as_secs()));
            }
        }
        if self.ending.is_none() && self.alone.is_some_and(|since| now >= since + self.grace) {
            let why = format!("no client was attached for {} s", self.grace.as_secs());
            self.hang_up(&why, self.channels.options.kill_after);
        }
        if let Some(ending) = &mut self.ending
            && now >= ending.kill_at
            && !ending.is_killed
        {
            ending.is_killed = true;
            self.terminal.kill(&ending.background);
        }
    }

    fn hang_up(&mut self, why: &str, patience: Duration) {
        if self.ending.is_some() {
            return;
        }
        tracing::info!(session = %self.slot.id, reason = why, "ending a session");
        let background = self.terminal.hang_up();
        let kill_at = Instant::now() + patience;
        self.ending = Some(Ending { why: why.to_owned(), background, kill_at, is_killed: false });
    }

    /// Whether the output is complete.
    fn is_over(&self) -> bool {
        let now = Instant::now();
        let is_given_up = self
            .ending
            .as_ref()
            .is_some_and(|ending| ending.is_killed && now >= ending.kill_at + GIVEN_UP);
        let is_read = |(ended, read): (Instant, Instant)| {
            let is_held = self.members.values().any(|member| !member.may_be_written());
            self.is_silent || now >= ended + MOST_REST || (!is_held && now >= read + REST)
        };
        is_given_up || self.over.is_some_and(is_read)
    }

    fn attach(&mut self, attach: Attach, is_first: bool) {
        let Attach { channel, place, watches, size } = attach;
        if !watches {
            self.resize(size);
        }
        let outlet = Outlet::new(Arc::clone(&self.taken));
        if !is_first {
            outlet.say(Frame::Screen(self.screen.restored(true)));
        }
        let number = self.next;
        self.next += 1;
        let carried = carry(number, channel, Arc::clone(&outlet), self.ear.clone(), place);
        self.channels.tasks.spawn(carried);
        let member = Member { watches, is_behind: false, stalled: None, outlet };
        self.members.insert(number, member);
        self.alone = None;
        self.tell_attached();
    }

    fn on_left(&mut self, number: u64, why: &str) {
        // Frames that were sent before leaving still count.
        while let Ok((number, frame)) = self.said.try_recv() {
            self.on_frame(number, frame);
        }
        self.members.remove(&number);
        tracing::info!(
            session = %self.slot.id,
            reason = why,
            "a client detached from a session"
        );
        if self.members.is_empty() {
            self.alone = Some(Instant::now());
        }
        self.tell_attached();
    }

    fn tell_attached(&self) {
        let count = |watches: bool| {
            let of = self.members.values().filter(|member| member.watches == watches);
            u32::try_from(of.count()).unwrap_or(u32::MAX)
        };
        let attached = Attached { shared: count(false), watching: count(true) };
        for member in self.members.values() {
            member.outlet.attached(attached);
        }
    }

    fn resize(&mut self, size: TerminalSize) {
        if size != self.size {
            self.size = size;
            self.terminal.resize(size);
            self.screen.resize(size);
        }
    }

    fn on_frame(&mut self, number: u64, frame: Frame) {
        let may_type = self.members.get(&number).is_some_and(|member| !member.watches);
        if !may_type {
            return;
        }
        match frame {
            Frame::Data(bytes) => self.input.extend_from_slice(&bytes),
            Frame::Eof => self.input.extend_from_slice(EOT),
            Frame::Resize(size) => self.resize(super::screen::sane(size)),
            // Members send no other frames.
            _ => {}
        }
    }

    async fn on_output(&mut self, bytes: Bytes) {
        self.screen.feed(&bytes);
        if let Some((_, read)) = &mut self.over {
            *read = Instant::now();
        }
        for member in self.members.values_mut() {
            if member.is_behind || !member.outlet.is_free() {
                member.is_behind = true;
            } else {
                member.outlet.output(bytes.clone());
            }
        }
        if self.members.is_empty() && bytes.len() >= 4096 {
            sleep(BRAKE).await;
        } else {
            tokio::task::yield_now().await;
        }
    }

    /// Tracks members that accept no output; sends the current screen to those that missed output.
    fn look_after_members(&mut self) {
        let now = Instant::now();
        for member in self.members.values_mut() {
            if member.is_behind && member.outlet.is_drained() {
                member.is_behind = false;
                member.outlet.say(Frame::Screen(self.screen.restored(false)));
            }
            if member.may_be_written() {
                member.stalled = None;
            } else {
                member.stalled.get_or_insert(now);
            }
        }
    }

    /// Sends the exit to all members.
    async fn finish(mut self) -> Exit {
        if let Some(ending) = &self.ending {
            self.terminal.clear(&ending.background, ending.kill_at).await;
        }
        let is_gone = has_ended(self.terminal.pid());
        let status = self.terminal.reap();
        let why = self.ending.take().map(|ending| ending.why);
        let exit = match &status {
            Some(status) => match status.signal() {
                Some(signal) => {
                    Exit { code: None, reason: Some(why.unwrap_or_else(|| signal.into())) }
                }
                None => Exit { code: i32::try_from(status.exit_code()).ok(), reason: why },
            },
            None if is_gone => Exit { code: None, reason: why },
            None => Exit { code: None, reason: Some("failed to terminate its program".to_owned()) },
        };
        tracing::info!(
            session = %self.slot.id,
            code = exit.code,
            reason = exit.reason,
            "a session has ended"
        );
        self.requests.close();
        while let Some(ask) = self.requests.recv().await {
            ask.decline().await;
        }
        for member in self.members.values() {
            member.outlet.say(Frame::Exit(exit.clone()));
            member.outlet.end(reason::SESSION_ENDED);
        }
        for done in self.enders {
            let _ = done.send(());
        }
        exit
    }
}

impl Member {
    /// Whether the program may write, as far as this member is concerned.
    fn may_be_written(&self) -> bool {
        self.watches || self.outlet.is_free()
    }
}
