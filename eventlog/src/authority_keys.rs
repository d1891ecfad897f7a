//! The authority keys of a log, and the events that it refused because they have no valid proof.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use muster_schemas::authority::{AuthorityError, AuthorityKey, AuthorityVerifier, ProofContent};
use muster_schemas::{Position, ProjectId};
use parking_lot::Mutex;

use crate::append::{Batch, Expected};
use crate::stored_event::StoredEvent;

/// Maximum number of refused events that are remembered as logged.
const MAX_LOGGED_REFUSALS: usize = 1_000;

/// Authority keys of one user of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuthorityKeys {
    pub(crate) signer: Option<Arc<AuthorityKey>>,
    pub(crate) verifier: Option<Arc<AuthorityVerifier>>,
}

impl AuthorityKeys {
    /// Adds a proof to each event of a batch, if there is a key for it.
    pub(crate) fn prove(&self, project: &ProjectId, batch: &mut Batch) {
        let Some(signer) = &self.signer else { return };
        for append in &mut batch.appends {
            for part in &mut append.streams {
                // A proof contains the version; without a version nothing can be proved.
                let Expected::Version(mut version) = part.expected else { continue };
                for event in &mut part.events {
                    version += 1;
                    let content = ProofContent {
                        project: project.as_str(),
                        stream: &part.stream,
                        stream_version: version,
                        kind: event.kind,
                        schema_version: event.schema_version,
                        occurred_at: event.occurred_at,
                        actor: &append.actor,
                        record: &event.record,
                    };
                    event.authority = signer.prove(&content).map(Into::into);
                }
            }
        }
    }
}

/// Events that were refused because they have no valid proof.
#[derive(Debug, Default)]
pub(crate) struct RefusedEvents {
    count: AtomicU64,
    logged: Mutex<HashSet<(ProjectId, Position)>>,
}

impl RefusedEvents {
    /// Returns the number of refused events.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts a refused event, and logs it the first time.
    pub(crate) fn add(&self, project: &ProjectId, event: &StoredEvent, problem: &AuthorityError) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut logged = self.logged.lock();
        if logged.len() < MAX_LOGGED_REFUSALS && logged.insert((project.clone(), event.position)) {
            tracing::error!(
                %project, position = event.position.get(), kind = event.kind, stream = %event.stream,
                "an event in the log is ignored: {problem}; was the database modified manually?"
            );
        }
    }
}
