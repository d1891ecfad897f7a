//! Point-in-time queries: the devices at a position, from the log alone.
//!
//! The same pure fold as that of the live table, in memory. Nothing is written, and the only read
//! model that is read is the timeline, for the positions of one device's events.

use std::collections::BTreeMap;

use muster_eventlog::{EventLog, ReadFilter, StoreError, StoredEvent};
use muster_schemas::{DeviceId, Event, Position, ProjectId};

use crate::projections::devices::{CannotApply, Device, changed_device, needed};
use crate::projections::tokens;
use crate::timeline;

/// Maximum number of events in one read.
const MAX_EVENTS_PER_READ: u32 = 5_000;

/// A point-in-time query failed.
#[derive(Debug, thiserror::Error)]
pub enum PointInTimeError {
    /// The log could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An event cannot be applied.
    #[error("failed to fold the log: {kind} at position {position} cannot be applied")]
    CannotApply {
        /// Type of the event.
        kind: String,
        /// Position of the event.
        position: Position,
        /// The cause.
        source: CannotApply,
    },
}

/// All devices of a project at a position; by default at the start of its log.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The position.
    pub position: Position,
    /// The devices, including deleted ones.
    pub devices: BTreeMap<DeviceId, Device>,
}

/// Returns the types of events that are about devices.
#[must_use]
pub fn device_kinds() -> Vec<String> {
    Event::TYPES
        .iter()
        .map(|(kind, _)| *kind)
        .filter(|kind| !is_about_tokens(kind))
        .map(str::to_owned)
        .collect()
}

/// Whether events of this type are about tokens, which require the role of an admin or auditor.
#[must_use]
pub fn is_about_tokens(kind: &str) -> bool {
    tokens::TYPES.contains(&kind)
}

/// Returns all devices at a position, including deleted ones; folded from nothing, or from the
/// state at an earlier position. One chunk of events and the devices are in memory.
///
/// # Errors
/// See [`PointInTimeError`].
pub async fn devices_at(
    log: &EventLog,
    project: &ProjectId,
    earlier: Snapshot,
    position: Position,
) -> Result<BTreeMap<DeviceId, Device>, PointInTimeError> {
    let Snapshot { position: after, mut devices } = earlier;
    let mut filter = ReadFilter { after, until: Some(position), kinds: device_kinds() };
    loop {
        let events = log.read(project, &filter, MAX_EVENTS_PER_READ).await?;
        let Some(last) = events.last() else {
            return Ok(devices);
        };
        filter.after = last.position;
        fold(&mut devices, &log.authentic(project, events).await)?;
    }
}

/// Returns one device at a position; `None` when it had no events.
///
/// # Errors
/// See [`PointInTimeError`].
pub async fn device_at(
    log: &EventLog,
    project: &ProjectId,
    id: DeviceId,
    position: Position,
) -> Result<Option<Device>, PointInTimeError> {
    let mut devices = BTreeMap::new();
    let mut after = Position::ZERO;
    loop {
        let range = timeline::Positions {
            after,
            until: position,
            is_newest_first: false,
            limit: MAX_EVENTS_PER_READ,
        };
        let positions = timeline::positions(log, project, id, &range).await.map_err(|error| {
            StoreError::Corrupt(format!("failed to read the timeline: {error}"))
        })?;
        let Some(last) = positions.last() else {
            return Ok(devices.remove(&id));
        };
        after = *last;
        let events = log.read_positions(project, &positions).await?;
        fold(&mut devices, &log.authentic(project, events).await)?;
    }
}

fn fold(
    devices: &mut BTreeMap<DeviceId, Device>,
    events: &[StoredEvent],
) -> Result<(), PointInTimeError> {
    for (stored, needed) in events.iter().zip(needed(events)) {
        let Some(id) = changed_device(stored) else {
            continue;
        };
        let device = devices.entry(id).or_default();
        device.apply_metadata(stored);
        if needed {
            device.apply(stored).map_err(|source| PointInTimeError::CannotApply {
                kind: stored.kind.clone(),
                position: stored.position,
                source,
            })?;
        }
    }
    Ok(())
}
