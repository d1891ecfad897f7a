//! The parts of the write side that channels need.

use std::sync::Arc;

use muster_blobs::Blobs;

use super::recording_rule::Recording;
use super::relays::Relays;
use crate::device_keys::DeviceKeys;
use crate::executor::Executor;
use crate::keys::KeyStore;

/// Opens and relays channels to devices; cheap to clone.
#[derive(Clone, Debug)]
pub struct Channels {
    pub(super) executor: Executor,
    pub(super) keys: Arc<KeyStore>,
    pub(super) device_keys: DeviceKeys,
    /// Connection to the servers' account.
    pub(super) nats: async_nats::Client,
    /// Recordings.
    pub(super) blobs: Blobs,
    /// Open relays.
    pub(super) relays: Arc<Relays>,
    /// Whose shells are recorded.
    pub(crate) recording: Recording,
}

impl Channels {
    pub(crate) fn new(
        executor: Executor,
        keys: Arc<KeyStore>,
        device_keys: DeviceKeys,
        nats: async_nats::Client,
        blobs: Blobs,
    ) -> Self {
        let (relays, recording) = (Arc::default(), Recording::default());
        Self { executor, keys, device_keys, nats, blobs, relays, recording }
    }
}
