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
use muster_channel::Frame;
use muster_channel::frame::{Attached, Exit};
use muster_schemas::wire::TerminalSize;
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::member::{Member, OutgoingQueue, SessionInbox, run_member};
use super::reason;
use super::registry::{Channels, SessionSlot};
use super::screen::Screen;
use super::session_request::{Attach, SessionRequest};
use super::terminal::Terminal;
use crate::subprocess::{has_ended, wait_for_end};

/// Maximum size of input that waits for the program, in bytes.
const MAX_QUEUED_INPUT_BYTES: usize = 64 * 1024;
/// Interval between attempts to write waiting input, in case the readiness event was lost.
const WRITE_RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Delay between reads while no client is attached, so that a program with much output does not
/// starve the rest of the agent.
const DETACHED_READ_DELAY: Duration = Duration::from_millis(5);
/// Quiet time after which the rest of the output is complete, when the program has ended.
const OUTPUT_QUIET_TIME: Duration = Duration::from_millis(200);
/// Maximum time of reading the rest of the output.
const MAX_DRAIN_TIME: Duration = Duration::from_secs(15);
/// Time until SIGKILL when the agent stops.
const STOP_KILL_DELAY: Duration = Duration::from_millis(500);
/// Time after SIGKILL at which remaining processes are abandoned.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(2);
/// End of input, as typed in a terminal.
const EOT: &[u8] = b"\x04";

/// The state of a session that is being ended.
struct Ending {
    reason: String,
    background: Vec<Pid>,
    kill_at: Instant,
    is_killed: bool,
}

/// A session.
pub(super) struct Session {
    channels: Arc<Channels>,
    slot: SessionSlot,
    requests: mpsc::Receiver<SessionRequest>,
    terminal: Terminal,
    screen: Screen,
    size: TerminalSize,
    grace: Duration,
    members: BTreeMap<u64, Member>,
    next: u64,
    input: BytesMut,
    inbox: SessionInbox,
    frames: mpsc::Receiver<(u64, Frame)>,
    departures: mpsc::UnboundedReceiver<(u64, String)>,
    /// Notified when a member's output was sent.
    sent: Arc<Notify>,
    children: Option<Signal>,
    /// Time since which no client is attached.
    detached_since: Option<Instant>,
    ending: Option<Ending>,
    end_waiters: Vec<oneshot::Sender<()>>,
    /// Whether no process has the terminal open.
    is_silent: bool,
    /// When the program ended, and when its terminal was last read.
    ended_at: Option<(Instant, Instant)>,
}

/// An event of the session's loop.
enum SessionEvent {
    Ask(SessionRequest),
    Frame(u64, Frame),
    Left(u64, String),
    Sent,
    Output(Bytes),
    Silent,
    Written(usize),
    ProgramEnded,
    Timer,
    Stop,
}

impl Session {
    pub(super) fn new(
        channels: Arc<Channels>,
        slot: SessionSlot,
        requests: mpsc::Receiver<SessionRequest>,
        terminal: Terminal,
        size: TerminalSize,
        grace: Duration,
    ) -> Self {
        let (frame_sender, frames) = mpsc::channel(1);
        let (left_in, departures) = mpsc::unbounded_channel();
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
            inbox: SessionInbox { frames: frame_sender, departures: left_in },
            frames,
            departures,
            sent: Arc::new(Notify::new()),
            children: signal(SignalKind::child()).ok(),
            detached_since: None,
            ending: None,
            end_waiters: Vec::new(),
            is_silent: false,
            ended_at: None,
        }
    }

    /// Runs until the program has ended; returns its exit.
    pub(super) async fn run(mut self, first: Attach) -> Exit {
        self.attach(first, true);
        loop {
            self.check_members();
            if self.is_output_complete() {
                break;
            }
            let event = self.next_event().await;
            self.handle(event).await;
        }
        self.finish().await
    }

    /// Waits for the next event.
    async fn next_event(&mut self) -> SessionEvent {
        let wake = self.wake_at();
        let may_read = !self.is_silent && self.members.values().all(Member::accepts_output);
        let may_type = self.input.len() < MAX_QUEUED_INPUT_BYTES;
        let Self {
            requests: asks,
            frames,
            departures: left,
            sent: taken,
            terminal,
            children,
            channels,
            input,
            ended_at: over,
            ending,
            ..
        } = self;
        let pid = terminal.pid();
        tokio::select! {
            Some(ask) = asks.recv() => SessionEvent::Ask(ask),
            Some((number, frame)) = frames.recv(), if may_type => {
                SessionEvent::Frame(number, frame)
            }
            Some((number, why)) = left.recv() => SessionEvent::Left(number, why),
            () = taken.notified() => SessionEvent::Sent,
            read = terminal.read(), if may_read => match read {
                Ok(bytes) if !bytes.is_empty() => SessionEvent::Output(bytes),
                Ok(_) | Err(_) => SessionEvent::Silent,
            },
            written = terminal.write(&input[..]), if !input.is_empty() => {
                // No process reads the input.
                SessionEvent::Written(written.unwrap_or(usize::MAX))
            }
            () = wait_for_end(pid, children), if over.is_none() => SessionEvent::ProgramEnded,
            () = channels.stop.cancelled(), if ending.is_none() => SessionEvent::Stop,
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => SessionEvent::Timer,
        }
    }

    async fn handle(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Ask(SessionRequest::Attach(attach)) => self.attach(attach, false),
            SessionEvent::Ask(SessionRequest::End(done)) => {
                self.end_waiters.push(done);
                self.hang_up(reason::SESSION_TERMINATED, self.channels.options.kill_after);
            }
            SessionEvent::Frame(number, frame) => self.on_frame(number, frame),
            SessionEvent::Left(number, why) => self.on_left(number, &why),
            SessionEvent::Sent => {}
            SessionEvent::Output(bytes) => self.on_output(bytes).await,
            SessionEvent::Silent => self.is_silent = true,
            SessionEvent::Written(count) => self.input.advance(count.min(self.input.len())),
            SessionEvent::ProgramEnded => self.ended_at = Some((Instant::now(), Instant::now())),
            SessionEvent::Timer => self.on_timer(),
            SessionEvent::Stop => self.hang_up(reason::AGENT_STOPS, STOP_KILL_DELAY),
        }
    }

    /// Returns the time at which the next action is due.
    fn wake_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let timeout = self.channels.options.stall_timeout;
        let stalled = self.members.values().filter_map(|member| member.stalled_since).min();
        let ending = self.ending.as_ref().map(|ending| {
            if ending.is_killed { ending.kill_at + ABANDON_TIMEOUT } else { ending.kill_at }
        });
        [
            stalled.map(|since| since + timeout),
            self.detached_since.filter(|_| self.ending.is_none()).map(|since| since + self.grace),
            ending,
            (!self.input.is_empty()).then(|| now + WRITE_RETRY_INTERVAL),
            self.ended_at
                .map(|(ended, read)| (read + OUTPUT_QUIET_TIME).min(ended + MAX_DRAIN_TIME)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_timer(&mut self) {
        let now = Instant::now();
        if !self.input.is_empty() {
            let count = self.terminal.write_now(&self.input);
            self.input.advance(count.min(self.input.len()));
        }
        let timeout = self.channels.options.stall_timeout;
        for member in self.members.values() {
            if member.stalled_since.is_some_and(|since| now >= since + timeout) {
                member
                    .outgoing
                    .abort(&format!("the client accepted no output for {} s", timeout.as_secs()));
            }
        }
        if self.ending.is_none()
            && self.detached_since.is_some_and(|since| now >= since + self.grace)
        {
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

    fn hang_up(&mut self, reason: &str, kill_after: Duration) {
        if self.ending.is_some() {
            return;
        }
        tracing::info!(session = %self.slot.id, reason = reason, "ending a session");
        let background = self.terminal.hang_up();
        let kill_at = Instant::now() + kill_after;
        self.ending =
            Some(Ending { reason: reason.to_owned(), background, kill_at, is_killed: false });
    }

    /// Whether the output is complete.
    fn is_output_complete(&self) -> bool {
        let now = Instant::now();
        let is_given_up = self
            .ending
            .as_ref()
            .is_some_and(|ending| ending.is_killed && now >= ending.kill_at + ABANDON_TIMEOUT);
        let is_read = |(ended, read): (Instant, Instant)| {
            let is_held = self.members.values().any(|member| !member.accepts_output());
            self.is_silent
                || now >= ended + MAX_DRAIN_TIME
                || (!is_held && now >= read + OUTPUT_QUIET_TIME)
        };
        is_given_up || self.ended_at.is_some_and(is_read)
    }

    fn attach(&mut self, attach: Attach, is_first: bool) {
        let Attach { channel, permit, is_read_only: watches, size } = attach;
        if !watches {
            self.resize(size);
        }
        let outlet = OutgoingQueue::new(Arc::clone(&self.sent));
        if !is_first {
            outlet.push(Frame::Screen(self.screen.render(true)));
        }
        let number = self.next;
        self.next += 1;
        let carried = run_member(number, channel, Arc::clone(&outlet), self.inbox.clone(), permit);
        self.channels.tasks.spawn(carried);
        let member = Member {
            is_read_only: watches,
            is_behind: false,
            stalled_since: None,
            outgoing: outlet,
        };
        self.members.insert(number, member);
        self.detached_since = None;
        self.send_attached();
    }

    fn on_left(&mut self, number: u64, reason: &str) {
        // Frames that were sent before leaving still count.
        while let Ok((number, frame)) = self.frames.try_recv() {
            self.on_frame(number, frame);
        }
        self.members.remove(&number);
        tracing::info!(
            session = %self.slot.id,
            reason = reason,
            "a client detached from a session"
        );
        if self.members.is_empty() {
            self.detached_since = Some(Instant::now());
        }
        self.send_attached();
    }

    fn send_attached(&self) {
        let count = |watches: bool| {
            let of = self.members.values().filter(|member| member.is_read_only == watches);
            u32::try_from(of.count()).unwrap_or(u32::MAX)
        };
        let attached = Attached { shared: count(false), watching: count(true) };
        for member in self.members.values() {
            member.outgoing.push_attached(attached);
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
        let may_type = self.members.get(&number).is_some_and(|member| !member.is_read_only);
        if !may_type {
            return;
        }
        match frame {
            Frame::Data(bytes) => self.input.extend_from_slice(&bytes),
            Frame::Eof => self.input.extend_from_slice(EOT),
            Frame::Resize(size) => self.resize(super::screen::clamp_size(size)),
            // Members send no other frames.
            _ => {}
        }
    }

    async fn on_output(&mut self, bytes: Bytes) {
        self.screen.feed(&bytes);
        if let Some((_, read)) = &mut self.ended_at {
            *read = Instant::now();
        }
        for member in self.members.values_mut() {
            if member.is_behind || !member.outgoing.can_queue_output() {
                member.is_behind = true;
            } else {
                member.outgoing.push_output(bytes.clone());
            }
        }
        if self.members.is_empty() && bytes.len() >= 4096 {
            sleep(DETACHED_READ_DELAY).await;
        } else {
            tokio::task::yield_now().await;
        }
    }

    /// Tracks members that accept no output; sends the current screen to those that missed output.
    fn check_members(&mut self) {
        let now = Instant::now();
        for member in self.members.values_mut() {
            if member.is_behind && member.outgoing.is_drained() {
                member.is_behind = false;
                member.outgoing.push(Frame::Screen(self.screen.render(false)));
            }
            if member.accepts_output() {
                member.stalled_since = None;
            } else {
                member.stalled_since.get_or_insert(now);
            }
        }
    }

    /// Sends the exit to all members.
    async fn finish(mut self) -> Exit {
        if let Some(ending) = &self.ending {
            self.terminal.clear(&ending.background, ending.kill_at).await;
        }
        let has_exited = has_ended(self.terminal.pid());
        let status = self.terminal.reap();
        let why = self.ending.take().map(|ending| ending.reason);
        let exit = match &status {
            Some(status) => match status.signal() {
                Some(signal) => {
                    Exit { code: None, reason: Some(why.unwrap_or_else(|| signal.into())) }
                }
                None => Exit { code: i32::try_from(status.exit_code()).ok(), reason: why },
            },
            None if has_exited => Exit { code: None, reason: why },
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
            member.outgoing.push(Frame::Exit(exit.clone()));
            member.outgoing.end(reason::SESSION_ENDED);
        }
        for done in self.end_waiters {
            let _ = done.send(());
        }
        exit
    }
}

impl Member {
    /// Whether the program may write, as far as this member is concerned.
    fn accepts_output(&self) -> bool {
        self.is_read_only || self.outgoing.can_queue_output()
    }
}
