//! The batches that wait for the appender: small ones first, without starving the large ones.

use tokio::sync::{mpsc, oneshot};

use crate::append::{Append, AppendError, Appended, Batch};

/// Maximum number of events of a small append, which precedes larger ones.
const MAX_SMALL_APPEND_EVENTS: usize = 16;

pub(super) type BatchResult = Result<Vec<Result<Appended, AppendError>>, AppendError>;

/// A batch, and the channel for its result.
#[derive(Debug)]
pub(super) struct QueuedBatch {
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<BatchResult>,
}

impl QueuedBatch {
    fn events(&self) -> usize {
        self.batch.appends.iter().map(Append::events).sum()
    }

    pub(super) fn is_small(&self) -> bool {
        self.batch.offset.is_none() && self.events() <= MAX_SMALL_APPEND_EVENTS
    }
}

/// The queues of an appender.
#[derive(Debug)]
pub(super) struct Queues {
    small: mpsc::Receiver<QueuedBatch>,
    large: mpsc::Receiver<QueuedBatch>,
    /// Work that did not fit into the previous group.
    carried_over: Option<QueuedBatch>,
    /// Whether the previous group had only small appends.
    was_last_small: bool,
}

impl Queues {
    pub(super) fn new(
        small: mpsc::Receiver<QueuedBatch>,
        large: mpsc::Receiver<QueuedBatch>,
    ) -> Self {
        Self { small, large, carried_over: None, was_last_small: false }
    }

    /// Waits for work, then takes all pending work: small appends first, up to `max` events.
    pub(super) async fn gather(&mut self, max: usize) -> Option<Vec<QueuedBatch>> {
        let mut group = Vec::new();
        let mut events = 0;
        if self.was_last_small && self.carried_over.is_none() {
            self.carried_over = self.large.try_recv().ok();
        }
        let turn = self.was_last_small && self.carried_over.is_some();
        if let Some(work) = (!turn).then(|| self.small.try_recv().ok()).flatten() {
            events += work.events();
            group.push(work);
        } else if let Some(work) = self.carried_over.take() {
            events += work.events();
            group.push(work);
        } else {
            let work = tokio::select! {
                biased;
                Some(work) = self.small.recv() => work,
                Some(work) = self.large.recv() => work,
                else => return None,
            };
            events += work.events();
            group.push(work);
        }
        while let Ok(work) = self.small.try_recv() {
            events += work.events();
            group.push(work);
            if events >= max {
                return Some(group);
            }
        }
        // A group that starts with a small append stays small, so that it does not wait for a large
        // COPY.
        self.was_last_small = group.first().is_some_and(QueuedBatch::is_small);
        if self.was_last_small {
            return Some(group);
        }
        while events < max {
            let Ok(work) = self.large.try_recv() else {
                break;
            };
            if events + work.events() > max {
                self.carried_over = Some(work);
                break;
            }
            events += work.events();
            group.push(work);
        }
        Some(group)
    }
}
