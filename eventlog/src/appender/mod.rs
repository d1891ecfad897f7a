//! The appender: one task per project, which commits pending appends in groups.
//!
//! Appends are collected while the previous group commits; there is no linger. Small appends (API
//! writes) precede large batches (ingest), in a separate transaction; after one such group, a
//! pending batch is next. If the store fails, every caller in the group gets the error and keeps
//! its events.

mod plan;
mod session;
mod statements;

use std::sync::Arc;

use muster_schemas::ProjectId;
use tokio::sync::{mpsc, oneshot};

use crate::append::{Append, AppendError, Appended, Batch};
use crate::connect::Dialer;
use crate::error::StoreError;
use crate::failure::{Cause, FailureWatch};
use crate::log::LogOptions;
use session::Session;

pub(crate) use session::NOTIFY_CHANNEL;

/// Maximum number of events of a small append, which precedes larger ones.
const MAX_SMALL_APPEND_EVENTS: usize = 16;
/// Maximum number of queued batches; further callers wait in their own tasks.
const MAX_QUEUED_BATCHES: usize = 256;

pub(crate) type BatchResult = Result<Vec<Result<Appended, AppendError>>, AppendError>;

/// A batch, and the channel for its result.
#[derive(Debug)]
pub(crate) struct QueuedBatch {
    pub(crate) batch: Batch,
    pub(crate) reply: oneshot::Sender<BatchResult>,
}

impl QueuedBatch {
    fn events(&self) -> usize {
        self.batch.appends.iter().map(Append::events).sum()
    }

    fn is_small(&self) -> bool {
        self.batch.offset.is_none() && self.events() <= MAX_SMALL_APPEND_EVENTS
    }
}

/// Handle of a project's appender.
#[derive(Clone, Debug)]
pub(crate) struct AppenderHandle {
    small: mpsc::Sender<QueuedBatch>,
    large: mpsc::Sender<QueuedBatch>,
}

impl AppenderHandle {
    /// Starts the project's appender. It ends when the last handle is dropped.
    pub(crate) fn spawn(
        project: ProjectId,
        dialer: Arc<Dialer>,
        options: LogOptions,
        failure: FailureWatch,
    ) -> Self {
        let (small, small_queue) = mpsc::channel(MAX_QUEUED_BATCHES);
        let (large, large_queue) = mpsc::channel(MAX_QUEUED_BATCHES);
        let queues = Queues {
            small: small_queue,
            large: large_queue,
            carried_over: None,
            was_last_small: false,
        };
        tokio::spawn(run(project, dialer, options, failure, queues));
        Self { small, large }
    }

    pub(crate) async fn submit(&self, batch: Batch) -> BatchResult {
        let (reply, receive) = oneshot::channel();
        let work = QueuedBatch { batch, reply };
        let queue = if work.is_small() { &self.small } else { &self.large };
        let shutting_down = || AppendError::Store(StoreError::ShuttingDown);
        queue.send(work).await.map_err(|_| shutting_down())?;
        receive.await.map_err(|_| shutting_down())?
    }
}

#[derive(Debug)]
struct Queues {
    small: mpsc::Receiver<QueuedBatch>,
    large: mpsc::Receiver<QueuedBatch>,
    /// Work that did not fit into the previous group.
    carried_over: Option<QueuedBatch>,
    /// Whether the previous group had only small appends.
    was_last_small: bool,
}

impl Queues {
    /// Waits for work, then takes all pending work: small appends first, up to `max` events.
    async fn gather(&mut self, max: usize) -> Option<Vec<QueuedBatch>> {
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

async fn run(
    project: ProjectId,
    dialer: Arc<Dialer>,
    options: LogOptions,
    failure: FailureWatch,
    mut queues: Queues,
) {
    let mut session: Option<Session> = None;
    while let Some(group) = queues.gather(options.max_batch).await {
        let mut open = match session.take() {
            Some(open) => open,
            None => match Session::open(project.clone(), dialer.clone(), options.clone()).await {
                Ok(open) => open,
                Err(error) => {
                    failure.failed(Cause::of(&error));
                    fail_all(group, error);
                    continue;
                }
            },
        };
        match open.append(group).await {
            Ok(()) => {
                failure.succeeded();
                session = Some(open);
            }
            // The session is dropped, because the state of its connection is unknown.
            Err(error) => {
                failure.failed(Cause::of(&error));
                tracing::warn!(%project, error = %describe(&*error), "an append failed");
            }
        }
    }
}

/// Sends the store's failure to all callers of a group.
fn fail_all(group: Vec<QueuedBatch>, error: StoreError) {
    let error = Arc::new(error);
    for work in group {
        let _ = work.reply.send(Err(AppendError::Store(StoreError::Shared(error.clone()))));
    }
}

/// Formats an error with its sources, for the callers that share it.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
