//! The open runs of this device: which wait, which are running, and which may start now.
//!
//! The queue is in memory; the journal outlives the agent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_schemas::events::Action;
use muster_schemas::{Event, OperationId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::entry::State;
use super::journal;
use super::kind::{Lane, OperationKind};
use crate::clock::ServerClock;
use crate::store::{Store, StoreError};
use crate::subprocess::reap;

/// Maximum number of accepted runs that wait.
pub(super) const MAX_WAITING_RUNS: usize = 100;
/// Maximum number of concurrent uploads.
const MAX_CONCURRENT_UPLOADS: usize = 2;
/// Delay after a failed write.
pub(super) const RETRY_DELAY: Duration = Duration::from_secs(5);

/// A run that has not ended.
#[derive(Clone, Debug)]
struct OpenRun {
    ticket: u64,
    is_waiting: bool,
    lane: Lane,
    /// Whether the run ends the agent or restarts the machine.
    ends_agent: bool,
    cancel: CancellationToken,
}

#[derive(Debug, Default)]
struct QueueState {
    open: BTreeMap<OperationId, OpenRun>,
    next_ticket: u64,
    /// Ends whose events do not fit into the outbox yet.
    pending_ends: BTreeMap<OperationId, Event>,
    paused_until: Option<Instant>,
    /// Whether the agent is about to restart.
    is_leaving: bool,
    level_until: Option<Instant>,
    /// Process ids of programs in the background: they are reaped when they end.
    background: Vec<u32>,
}

impl QueueState {
    /// Whether any run may start, after a successful hello.
    fn can_start(&self) -> bool {
        let is_paused = self.paused_until.is_some_and(|until| Instant::now() < until);
        let is_leaving =
            self.is_leaving || self.open.values().any(|open| open.ends_agent && !open.is_waiting);
        // A run that starts after a restart was initiated would be killed by it.
        self.pending_ends.is_empty() && !is_paused && !is_leaving
    }

    fn free_slots(&self, max_concurrent: usize) -> FreeSlots {
        let working =
            |lane| self.open.values().filter(|open| !open.is_waiting && open.lane == lane).count();
        FreeSlots {
            programs: max_concurrent.saturating_sub(working(Lane::Programs)),
            files: MAX_CONCURRENT_UPLOADS.saturating_sub(working(Lane::Files)),
        }
    }
}

/// Number of free slots per lane.
#[derive(Clone, Copy)]
struct FreeSlots {
    programs: usize,
    files: usize,
}

impl FreeSlots {
    const fn has(self, lane: Lane) -> bool {
        match lane {
            Lane::Free => true,
            Lane::Programs => self.programs > 0,
            Lane::Files => self.files > 0,
        }
    }
}

/// The open runs of a running agent.
#[derive(Debug)]
pub(super) struct RunQueue {
    clock: Arc<ServerClock>,
    /// Notified when a run arrived, ended, or may start.
    pub(super) changed: Notify,
    state: Mutex<QueueState>,
}

/// State of the run that a cancel refers to.
#[derive(Debug)]
pub(super) enum RunStatus {
    /// The run is not open.
    NotOpen,
    Waiting,
    Running,
}

impl RunQueue {
    /// Restores the open runs from the journal. Records nothing.
    pub(super) fn open(store: &Store, clock: Arc<ServerClock>) -> Result<Self, StoreError> {
        let mut state = QueueState::default();
        for (id, entry) in journal::read_all(store)? {
            state.next_ticket = state.next_ticket.max(entry.ticket + 1);
            if let State::Accepted(order) = &entry.state {
                state.open.insert(id, OpenRun::new(entry.ticket, &order.action));
            }
        }
        Ok(Self { clock, changed: Notify::new(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }

    pub(super) fn next_ticket(&self) -> u64 {
        let mut state = self.state();
        state.next_ticket += 1;
        state.next_ticket - 1
    }

    /// Whether the maximum number of runs waits in a lane.
    pub(super) fn is_busy(&self, lane: Lane) -> bool {
        let state = self.state();
        let waiting = state.open.values().filter(|open| open.is_waiting && open.lane == lane);
        lane != Lane::Free && waiting.count() >= MAX_WAITING_RUNS
    }

    /// Adds a run that is in the journal and waits.
    pub(super) fn enqueue(&self, id: OperationId, ticket: u64, action: &Action) {
        self.state().open.insert(id, OpenRun::new(ticket, action));
        self.changed.notify_one();
    }

    /// Adds a run that an earlier agent process started; returns the token that cancels it.
    pub(super) fn resume(
        &self,
        id: OperationId,
        ticket: u64,
        action: &Action,
    ) -> CancellationToken {
        let open = OpenRun { is_waiting: false, ..OpenRun::new(ticket, action) };
        let cancel = open.cancel.clone();
        self.state().open.insert(id, open);
        cancel
    }

    /// Returns the waiting runs, in their order.
    pub(super) fn waiting(&self) -> Vec<OperationId> {
        let state = self.state();
        let waiting = state.open.iter().filter(|(_, open)| open.is_waiting);
        let mut waiting: Vec<_> = waiting.map(|(id, open)| (open.ticket, *id)).collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, id)| id).collect()
    }

    /// Returns the next run that may start, with the token that cancels it; it then counts as
    /// running. No run may start before a hello was successful, or while an end waits for room.
    pub(super) fn next(&self, max_concurrent: usize) -> Option<(OperationId, CancellationToken)> {
        let mut state = self.state();
        if !self.clock.is_confirmed() || !state.can_start() {
            return None;
        }
        let places = state.free_slots(max_concurrent);
        let (id, open) = state
            .open
            .iter_mut()
            .filter(|(_, open)| open.is_waiting && places.has(open.lane))
            .min_by_key(|(_, open)| open.ticket)?;
        open.is_waiting = false;
        Some((*id, open.cancel.clone()))
    }

    /// Whether a run that arrives now would start immediately.
    pub(super) fn would_start(&self, action: &Action, max_concurrent: usize) -> bool {
        let state = self.state();
        let lane = OperationKind::of(action).lane;
        let is_before = |open: &OpenRun| open.ends_agent || (open.is_waiting && open.lane == lane);
        let is_first = !state.open.values().any(is_before);
        is_first
            && self.clock.is_confirmed()
            && state.can_start()
            && state.free_slots(max_concurrent).has(lane)
    }

    /// Starts no further run: they are left to the next agent process.
    pub(super) fn stop_starting(&self) {
        self.state().is_leaving = true;
    }

    /// Returns a run to the queue that could not start because a write failed. All runs wait for a
    /// while.
    pub(super) fn requeue(&self, id: OperationId) {
        let mut state = self.state();
        state.paused_until = Some(Instant::now() + RETRY_DELAY);
        if let Some(open) = state.open.get_mut(&id) {
            open.is_waiting = true;
        }
    }

    /// Removes a run that has ended.
    pub(super) fn close(&self, id: OperationId) {
        self.state().open.remove(&id);
        self.changed.notify_one();
    }

    /// Returns the state of a run that is to be canceled; signals a running one.
    pub(super) fn cancel(&self, id: OperationId) -> RunStatus {
        match self.state().open.get(&id) {
            None => RunStatus::NotOpen,
            Some(open) if open.is_waiting => RunStatus::Waiting,
            Some(open) => {
                open.cancel.cancel();
                RunStatus::Running
            }
        }
    }

    /// Returns the running runs.
    pub(super) fn running(&self) -> Vec<OperationId> {
        let state = self.state();
        state.open.iter().filter(|(_, open)| !open.is_waiting).map(|(id, _)| *id).collect()
    }

    /// Keeps an end that waits for room.
    pub(super) fn hold_end(&self, id: OperationId, event: Event) {
        self.state().pending_ends.insert(id, event);
    }

    /// Returns the ends that wait for room.
    pub(super) fn held_ends(&self) -> Vec<(OperationId, Event)> {
        self.state().pending_ends.iter().map(|(id, event)| (*id, event.clone())).collect()
    }

    pub(super) fn remove_end(&self, id: OperationId) {
        self.state().pending_ends.remove(&id);
    }

    /// Whether there is work that needs another check soon.
    pub(super) fn needs_check(&self) -> bool {
        let state = self.state();
        !state.pending_ends.is_empty() || state.open.values().any(|open| open.is_waiting)
    }

    /// Watches a program that continues in the background, which must be reaped when it ends.
    pub(super) fn watch(&self, pid: u32) {
        self.state().background.push(pid);
    }

    /// Reaps background programs that have ended.
    pub(super) fn reap(&self) {
        self.state().background.retain(|pid| !reap(*pid));
    }

    /// Time until which the log level differs from the config's.
    pub(super) fn level_until(&self) -> Option<Instant> {
        self.state().level_until
    }

    pub(super) fn set_level_until(&self, until: Option<Instant>) {
        self.state().level_until = until;
        self.changed.notify_one();
    }
}

impl OpenRun {
    fn new(ticket: u64, action: &Action) -> Self {
        let OperationKind { lane, ends_agent, .. } = OperationKind::of(action);
        Self { ticket, is_waiting: true, lane, ends_agent, cancel: CancellationToken::new() }
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::Timestamp;
    use muster_schemas::events::{Exec, Program};
    use uuid::Uuid;

    use super::*;
    use crate::clock::{Anchor, Moment};
    use crate::store::Folder;

    #[test]
    fn runs_start_in_order_with_limited_concurrency_after_a_hello() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(Folder::open(dir.path()).unwrap()).unwrap());
        let clock = Arc::new(ServerClock::open(Arc::clone(&store)).unwrap());
        let queue = RunQueue::open(&store, Arc::clone(&clock)).unwrap();
        let id = |n: u128| OperationId(Uuid::from_u128(n));
        let exec = Action::Exec(Exec {
            program: Program::Shell("true".into()),
            cwd: None,
            user: None,
            env: Vec::new(),
            background: false,
        });
        for number in [9, 5, 7] {
            queue.enqueue(id(number), queue.next_ticket(), &exec);
        }
        let next = |at_once| queue.next(at_once).map(|(id, _)| id.0.as_u128());
        assert_eq!(next(2), None, "no hello yet");
        assert_eq!(clock.confirmed_time(), None);
        let at = Moment::now();
        clock.confirm(Anchor { boot: at.boot, mono: at.mono, server: Timestamp(5) });
        assert!(clock.confirmed_time().is_some());
        assert!(!queue.would_start(&exec, 9), "others were first");
        assert_eq!((next(2), next(2), next(2)), (Some(9), Some(5), None));
        assert!(queue.would_start(&Action::RestartAgent, 2));
        queue.enqueue(id(1), queue.next_ticket(), &Action::RestartAgent);
        assert_eq!(next(2), Some(1), "takes no place");
        queue.close(id(9));
        assert_eq!(next(2), None, "it would be killed");
        queue.close(id(1));
        let level = Action::LogLevel { level: "debug".into(), seconds: None };
        queue.enqueue(id(2), queue.next_ticket(), &level);
        assert_eq!((next(1), next(1)), (Some(2), None), "takes no place");
        queue.hold_end(id(9), muster_schemas::events::RunExpired { operation: id(9) }.into());
        assert_eq!(next(2), None, "an end waits");
        queue.remove_end(id(9));
        queue.requeue(id(5));
        assert_eq!(next(2), None, "paused");
        assert_eq!(queue.waiting(), [id(5), id(7)]);
        assert!(matches!(queue.cancel(id(7)), RunStatus::Waiting));
        assert!(matches!(queue.cancel(id(2)), RunStatus::Running));
        assert!(matches!(queue.cancel(id(9)), RunStatus::NotOpen));
        queue.stop_starting();
        assert!(!queue.would_start(&Action::RestartAgent, 2));
        for number in 100..200 {
            assert_eq!(queue.is_busy(Lane::Programs), number >= 198);
            queue.enqueue(id(number), queue.next_ticket(), &exec);
        }
    }
}
