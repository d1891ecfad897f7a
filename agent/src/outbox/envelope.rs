//! The content of an event before it is sealed, and the envelope of a stored event.

use muster_schemas::{DeviceEnvelope, Event};

use crate::clock::Moment;
use crate::store::StoreError;

/// The content of an envelope before it gets its sequence number.
pub(super) struct Content<'a> {
    pub(super) kind: &'a str,
    pub(super) version: u16,
    pub(super) data: Vec<u8>,
    pub(super) at: Moment,
}

impl<'a> Content<'a> {
    pub(super) fn from_event(event: &'a Event, at: Moment) -> Self {
        Self { kind: event.kind(), version: event.version(), data: event.encode(), at }
    }
}

/// Parses an event that this device has sealed and stored itself.
pub(super) fn open(bytes: &[u8]) -> Result<DeviceEnvelope, StoreError> {
    DeviceEnvelope::from_sealed(bytes)
        .map_err(|error| StoreError::Damaged { what: "an event", problem: error.to_string() })
}
