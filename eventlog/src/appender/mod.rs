//! The appender: one task per project, which commits pending appends in groups.
//!
//! Appends are collected while the previous group commits; there is no linger. Small appends (API
//! writes) precede large batches (ingest), in a separate transaction; after one such group, a
//! pending batch is next. If the store fails, every caller in the group gets the error and keeps
//! its events.

mod plan;
mod queues;
mod session;
mod statements;

use std::sync::Arc;

use muster_schemas::ProjectId;
use muster_schemas::errors::error_chain;
use tokio::sync::{mpsc, oneshot};

use crate::access::AccessChanges;
use crate::append::{AppendError, Batch};
use crate::connect::Dialer;
use crate::error::StoreError;
use crate::failure::{Cause, FailureWatch};
use crate::log_options::LogOptions;
use queues::{BatchResult, QueuedBatch, Queues};
use session::{Opening, Session};

pub(crate) use session::NOTIFY_CHANNEL;

/// Maximum number of queued batches; further callers wait in their own tasks.
const MAX_QUEUED_BATCHES: usize = 256;

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
        access: AccessChanges,
    ) -> Self {
        let (small, small_queue) = mpsc::channel(MAX_QUEUED_BATCHES);
        let (large, large_queue) = mpsc::channel(MAX_QUEUED_BATCHES);
        let queues = Queues::new(small_queue, large_queue);
        let opening = Opening { project, dialer, options, access };
        tokio::spawn(run(opening, failure, queues));
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

async fn run(opening: Opening, failure: FailureWatch, mut queues: Queues) {
    let project = &opening.project;
    let mut session: Option<Session> = None;
    while let Some(group) = queues.gather(opening.options.max_batch).await {
        let mut open = match session.take() {
            Some(open) => open,
            None => match Session::open(&opening).await {
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
                tracing::warn!(%project, error = %error_chain(&*error), "an append failed");
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
