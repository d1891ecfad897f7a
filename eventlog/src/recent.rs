//! The newest events of each log, shared by the projections of a process: each event is read once,
//! however many projections apply it.
//!
//! A window holds consecutive events. It is only a cache, and a log may be restored from a backup
//! meanwhile: a window is extended only if the log still contains its newest event, and a projection
//! commits events of a window only if the log still contains the last of them. Otherwise the events
//! are read again ([`RecentEvents::forget`]). Salts are random, so they identify events.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use muster_schemas::{Position, ProjectId};
use parking_lot::Mutex;

use crate::stored_event::StoredEvent;

/// Maximum number of logs with a window; beyond it all windows are dropped.
const MAX_WINDOWS: usize = 16;
/// Maximum size of a window, in bytes: a projection that is further behind reads for itself.
const MAX_WINDOW_BYTES: usize = 4 << 20;
/// Estimated memory of an event in addition to its record.
const EVENT_OVERHEAD_BYTES: usize = 400;

/// The windows of all logs.
#[derive(Debug, Default)]
pub(crate) struct RecentEvents {
    windows: Mutex<HashMap<ProjectId, Arc<tokio::sync::Mutex<Window>>>>,
}

/// Consecutive events of a log.
#[derive(Debug, Default)]
pub(crate) struct Window {
    events: VecDeque<Arc<StoredEvent>>,
    bytes: usize,
}

impl Window {
    /// Whether the events after this position are in the window, or follow it.
    pub(crate) fn continues(&self, after: Position) -> bool {
        match (self.events.front(), self.events.back()) {
            (Some(first), Some(last)) => {
                (first.position.previous()..=last.position).contains(&after)
            }
            _ => false,
        }
    }

    /// Position of the newest event; `None` in an empty window.
    pub(crate) fn last(&self) -> Option<Position> {
        self.events.back().map(|last| last.position)
    }

    /// Appends the events that follow the newest one.
    pub(crate) fn extend(&mut self, events: Vec<StoredEvent>) {
        for event in events {
            self.bytes += size(&event);
            self.events.push_back(Arc::new(event));
        }
    }

    /// Appends events, of which the first must be the newest one of the window; false if it is not.
    pub(crate) fn extend_after_newest(&mut self, mut events: Vec<StoredEvent>) -> bool {
        let is_same = match (self.events.back(), events.first()) {
            (Some(newest), Some(first)) => {
                (newest.position, &newest.salt) == (first.position, &first.salt)
            }
            _ => false,
        };
        if is_same {
            self.extend(events.split_off(1));
        }
        is_same
    }

    /// Returns the events after one position and up to another.
    pub(crate) fn between(&self, after: Position, until: Position) -> Vec<Arc<StoredEvent>> {
        let from = self.events.partition_point(|event| event.position <= after);
        let to = self.events.partition_point(|event| event.position <= until);
        self.events.range(from..to.max(from)).cloned().collect()
    }

    /// Drops the oldest events beyond the maximum size.
    pub(crate) fn trim(&mut self) {
        while self.bytes > MAX_WINDOW_BYTES
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= size(&oldest);
        }
    }
}

fn size(event: &StoredEvent) -> usize {
    event.record.len() + EVENT_OVERHEAD_BYTES
}

impl RecentEvents {
    /// Returns the window of a log.
    pub(crate) fn of(&self, project: &ProjectId) -> Arc<tokio::sync::Mutex<Window>> {
        let mut windows = self.windows.lock();
        if windows.len() >= MAX_WINDOWS && !windows.contains_key(project) {
            // Any one: with more busy projects than windows, no order helps.
            if let Some(other) = windows.keys().next().cloned() {
                windows.remove(&other);
            }
        }
        windows.entry(project.clone()).or_default().clone()
    }

    /// Drops all events: PostgreSQL was restarted, and may have lost its newest ones.
    pub(crate) fn clear(&self) {
        self.windows.lock().clear();
    }

    /// Drops the events of a log: it was restored, or may have been.
    pub(crate) fn forget(&self, project: &ProjectId) {
        self.windows.lock().remove(project);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use muster_schemas::StreamVersion;
    use muster_schemas::{DeviceId, StreamName, Timestamp};
    use uuid::Uuid;

    use super::*;

    fn event(position: u64, bytes: usize) -> StoredEvent {
        StoredEvent {
            position: Position(position),
            stream: StreamName::Device(DeviceId(Uuid::nil())),
            stream_version: StreamVersion(position),
            kind: "DeviceRenamed".to_owned(),
            schema_version: 1,
            occurred_at: Timestamp(0),
            recorded_at: Timestamp(0),
            actor: String::new(),
            correlation: None,
            causation: None,
            record: Bytes::from(vec![0; bytes]),
            salt: Bytes::new(),
            authority: None,
        }
    }

    fn positions(events: &[Arc<StoredEvent>]) -> Vec<u64> {
        events.iter().map(|event| event.position.get()).collect()
    }

    #[test]
    fn a_window_answers_for_consecutive_events_only() {
        let mut window = Window::default();
        assert!(!window.continues(Position::ZERO), "an empty window");
        window.extend((5..=9).map(|position| event(position, 10)).collect());
        let continues: Vec<u64> =
            (0..12).filter(|after| window.continues(Position(*after))).collect();
        assert_eq!(continues, [4, 5, 6, 7, 8, 9]);
        assert_eq!(positions(&window.between(Position(4), Position(7))), [5, 6, 7]);
        assert_eq!(positions(&window.between(Position(6), Position(100))), [7, 8, 9]);
        assert_eq!(positions(&window.between(Position(9), Position(9))), Vec::<u64>::new());
        assert_eq!(positions(&window.between(Position(9), Position(3))), Vec::<u64>::new());
    }

    #[test]
    fn the_size_of_a_window_is_limited() {
        let mut window = Window::default();
        window.extend((1..=200).map(|position| event(position, 64 << 10)).collect());
        window.trim();
        assert!(window.bytes <= MAX_WINDOW_BYTES, "{}", window.bytes);
        assert_eq!(window.last(), Some(Position(200)));
        assert_eq!(window.bytes, window.events.iter().map(|event| size(event)).sum::<usize>());
        assert!(!window.continues(Position::FIRST) && window.continues(Position(199)));
    }

    #[test]
    fn the_number_of_windows_is_limited() {
        let recent = RecentEvents::default();
        for n in 0..100 {
            drop(recent.of(&format!("project-{n}").parse().unwrap()));
            assert!(recent.windows.lock().len() <= MAX_WINDOWS);
        }
    }
}
