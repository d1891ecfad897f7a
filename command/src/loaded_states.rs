//! States of aggregates whose streams have many events: the next load reads only the events since.
//!
//! It is only a cache: each load reads the newest folded event again and compares it, so a log that
//! was restored from a backup is noticed, and a load sees every event that a full one would see.
//! Salts are random, so they identify events.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use muster_eventlog::StoredEvent;
use muster_schemas::{ProjectId, StreamName, StreamVersion};
use parking_lot::Mutex;

/// Minimum version of a stream whose state is kept: reading a shorter one costs no more.
const MIN_VERSION: StreamVersion = StreamVersion(4);
/// Maximum number of states; beyond it, all are dropped.
const MAX_STATES: usize = 4_096;

type Key = (TypeId, ProjectId, StreamName);

/// The states; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadedStates(Arc<Mutex<HashMap<Key, Kept>>>);

#[derive(Clone, Debug)]
struct Kept {
    version: StreamVersion,
    /// Salt of the event of that version.
    salt: Bytes,
    state: Arc<dyn Any + Send + Sync>,
}

/// A state, and the event up to which it is folded.
#[derive(Debug)]
pub(crate) struct Folded<D> {
    pub(crate) version: StreamVersion,
    salt: Bytes,
    pub(crate) state: D,
}

impl<D> Folded<D> {
    /// Whether the state is folded up to this event.
    pub(crate) fn ends_with(&self, event: &StoredEvent) -> bool {
        event.stream_version == self.version && event.salt == self.salt
    }
}

impl LoadedStates {
    /// Returns the state of a stream as it was last loaded.
    pub(crate) fn get<D: Clone + 'static>(
        &self,
        project: &ProjectId,
        stream: &StreamName,
    ) -> Option<Folded<D>> {
        let key = (TypeId::of::<D>(), project.clone(), stream.clone());
        let Kept { version, salt, state } = self.0.lock().get(&key)?.clone();
        let state = state.downcast_ref::<D>()?.clone();
        Some(Folded { version, salt, state })
    }

    /// Keeps the state after an event, if its stream is long.
    pub(crate) fn put<D: Clone + Send + Sync + 'static>(
        &self,
        project: &ProjectId,
        stream: &StreamName,
        newest: &StoredEvent,
        state: &D,
    ) {
        if newest.stream_version < MIN_VERSION {
            return;
        }
        let key = (TypeId::of::<D>(), project.clone(), stream.clone());
        let kept = Kept {
            version: newest.stream_version,
            salt: newest.salt.clone(),
            state: Arc::new(state.clone()),
        };
        let mut states = self.0.lock();
        if states.len() >= MAX_STATES && !states.contains_key(&key) {
            states.clear();
        }
        states.insert(key, kept);
    }
}
