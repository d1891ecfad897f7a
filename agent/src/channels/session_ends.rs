//! Records the ends of sessions in the log: also of those without an attached client, and of those
//! that a killed agent left open.

use std::sync::Arc;

use muster_channel::frame::Exit;
use muster_schemas::SessionId;
use muster_schemas::errors::error_chain;
use muster_schemas::events::ShellEnded;
use parking_lot::{Mutex, MutexGuard};
use redb::ReadableTable;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::outbox::Recorder;
use crate::store::{SESSIONS, Store, StoreError};

/// Reason of the end of a session whose agent process did not record it.
pub const UNKNOWN_END: &str =
    "the agent process was killed, or failed to record the end of the session";

/// The ends of sessions, and their recording.
#[derive(Debug)]
pub(crate) struct SessionEnds {
    store: Arc<Store>,
    recorder: Recorder,
    unrecorded: Mutex<Vec<End>>,
    added: Notify,
}

/// A session that has ended; one without an exit was never started.
#[derive(Debug)]
struct End {
    session: SessionId,
    exit: Option<Exit>,
}

/// A session, from its open until this is dropped, which ends it.
#[derive(Debug)]
pub(super) struct Pending<'a> {
    ends: &'a SessionEnds,
    session: SessionId,
    pub(super) exit: Option<Exit>,
}

impl SessionEnds {
    pub(super) fn new(store: Arc<Store>, recorder: Recorder) -> Self {
        Self { store, recorder, unrecorded: Mutex::default(), added: Notify::new() }
    }

    fn unrecorded(&self) -> MutexGuard<'_, Vec<End>> {
        self.unrecorded.lock()
    }

    pub(super) const fn pending(&self, session: SessionId) -> Pending<'_> {
        Pending { ends: self, session, exit: None }
    }

    /// Records ends, indefinitely.
    pub(crate) async fn record(&self) {
        loop {
            self.added.notified().await;
            self.record_now();
        }
    }

    /// Records the ends that are waiting.
    pub(crate) fn record_now(&self) {
        let ends = std::mem::take(&mut *self.unrecorded());
        for End { session, exit } in ends {
            let is_reported = exit.is_none_or(|exit| {
                let reason = exit.reason.unwrap_or_else(|| "the program ended".to_owned());
                self.record_end(ShellEnded { session, exit_code: exit.code, reason })
            });
            if is_reported {
                self.delete_session(session);
            }
        }
    }

    /// Records the ends of sessions of an earlier agent process, which did not outlive it.
    pub(crate) fn end_lost_sessions(&self) {
        match open_sessions(&self.store) {
            Ok(sessions) => {
                for session in sessions {
                    let reason = UNKNOWN_END.to_owned();
                    if self.record_end(ShellEnded { session, exit_code: None, reason }) {
                        self.delete_session(session);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "failed to read the open sessions");
            }
        }
    }

    /// Records an end. Recording it twice does no harm, but it must not be lost: after a failure
    /// the next agent process tries again.
    fn record_end(&self, ended: ShellEnded) -> bool {
        let session = ended.session;
        let recorded = self.recorder.record(&ended.into());
        if let Err(error) = &recorded {
            let error = error_chain(error);
            tracing::warn!(%session, error, "failed to record the end of a session");
        }
        recorded.is_ok()
    }

    fn delete_session(&self, session: SessionId) {
        const FORGET: &str = "forget a session";
        let forgotten = self.store.write_relaxed(|transaction| {
            let mut table =
                transaction.open_table(SESSIONS).map_err(StoreError::database(FORGET))?;
            table.remove(session.0.as_u128()).map_err(StoreError::database(FORGET))?;
            Ok(())
        });
        if let Err(error) = forgotten {
            tracing::warn!(
                %session,
                error = error_chain(&error),
                "failed to remove an ended session from the database"
            );
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.ends.unrecorded().push(End { session: self.session, exit: self.exit.take() });
        self.ends.added.notify_one();
    }
}

fn open_sessions(store: &Store) -> Result<Vec<SessionId>, StoreError> {
    const READ: &str = "read the open sessions";
    store.read(|transaction| {
        let table = transaction.open_table(SESSIONS).map_err(StoreError::database(READ))?;
        let mut sessions = Vec::new();
        for row in table.iter().map_err(StoreError::database(READ))? {
            let (session, _) = row.map_err(StoreError::database(READ))?;
            sessions.push(SessionId(Uuid::from_u128(session.value())));
        }
        Ok(sessions)
    })
}
