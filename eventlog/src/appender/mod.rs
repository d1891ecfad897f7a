//! The appender: one task a project that commits waiting appends in groups.
//!
//! Work gathers while the last group commits; there is no linger. Small appends (an API write) go
//! ahead of large batches (ingest), in a transaction of their own; after one such, a batch that
//! waits has its turn. A store failure is answered to
//! everyone in the group: nobody's events are kept here, the callers still have them.

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

pub(crate) use session::CHANNEL;

/// An append of at most this many events goes ahead of larger ones.
const SMALL: usize = 16;
/// Batches that may wait; more callers wait in their own tasks.
const WAITING: usize = 256;

pub(crate) type Answer = Result<Vec<Result<Appended, AppendError>>, AppendError>;

/// A batch and where its answer goes.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) batch: Batch,
    pub(crate) answer: oneshot::Sender<Answer>,
}

impl Work {
    fn events(&self) -> usize {
        self.batch.appends.iter().map(Append::events).sum()
    }

    fn is_small(&self) -> bool {
        self.batch.offset.is_none() && self.events() <= SMALL
    }
}

/// The way to a project's appender.
#[derive(Clone, Debug)]
pub(crate) struct AppenderHandle {
    small: mpsc::Sender<Work>,
    large: mpsc::Sender<Work>,
}

impl AppenderHandle {
    /// Starts the project's appender. It ends when the last handle is gone.
    pub(crate) fn spawn(
        project: ProjectId,
        dialer: Arc<Dialer>,
        options: LogOptions,
        failure: FailureWatch,
    ) -> Self {
        let (small, small_queue) = mpsc::channel(WAITING);
        let (large, large_queue) = mpsc::channel(WAITING);
        let queues =
            Queues { small: small_queue, large: large_queue, held: None, small_last: false };
        tokio::spawn(run(project, dialer, options, failure, queues));
        Self { small, large }
    }

    pub(crate) async fn submit(&self, batch: Batch) -> Answer {
        let (answer, receive) = oneshot::channel();
        let work = Work { batch, answer };
        let queue = if work.is_small() { &self.small } else { &self.large };
        let gone = || AppendError::Store(StoreError::ShuttingDown);
        queue.send(work).await.map_err(|_| gone())?;
        receive.await.map_err(|_| gone())?
    }
}

#[derive(Debug)]
struct Queues {
    small: mpsc::Receiver<Work>,
    large: mpsc::Receiver<Work>,
    /// A work that did not fit the last group.
    held: Option<Work>,
    /// The last group was of small ones alone.
    small_last: bool,
}

impl Queues {
    /// Waits for work, then takes what is there: small ones first, and up to `max` events.
    async fn gather(&mut self, max: usize) -> Option<Vec<Work>> {
        let mut group = Vec::new();
        let mut events = 0;
        if self.small_last && self.held.is_none() {
            self.held = self.large.try_recv().ok();
        }
        let turn = self.small_last && self.held.is_some();
        if let Some(work) = (!turn).then(|| self.small.try_recv().ok()).flatten() {
            events += work.events();
            group.push(work);
        } else if let Some(work) = self.held.take() {
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
        // A group that began with a small append stays small: it shall not wait for a large COPY.
        self.small_last = group.first().is_some_and(Work::is_small);
        if self.small_last {
            return Some(group);
        }
        while events < max {
            let Ok(work) = self.large.try_recv() else {
                break;
            };
            if events + work.events() > max {
                self.held = Some(work);
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
                    answer_all(group, error);
                    continue;
                }
            },
        };
        match open.append(group).await {
            Ok(()) => {
                failure.succeeded();
                session = Some(open);
            }
            // The session is dropped: its connection may be in the middle of anything.
            Err(error) => {
                failure.failed(Cause::of(&error));
                tracing::warn!(%project, error = %describe(&*error), "an append failed");
            }
        }
    }
}

/// Tells everyone in a group that the store failed.
fn answer_all(group: Vec<Work>, error: StoreError) {
    let error = Arc::new(error);
    for work in group {
        let _ = work.answer.send(Err(AppendError::Store(StoreError::Shared(error.clone()))));
    }
}

/// An error with its sources, for the callers that share it.
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
