//! The write side: loads the streams that a request concerns, decides, appends (`executor`),
//! notifies the device. This module has no knowledge of HTTP.

mod approval;
mod credentials;
mod dead_letters;
mod devices;
mod enrollment;
mod operations;
mod projects;
mod revocation;
mod targets;
mod token_uses;
mod tokens;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use muster_api::blobs::Blobs;
use muster_eventlog::EventLog;
use tokio::sync::{Mutex, Notify};

use crate::channels::{Channels, Recording};
use crate::dispatch::Dispatch;
use crate::executor::Executor;
use crate::hello::Hellos;
use crate::keys::KeyStore;
use crate::outputs::Outputs;

pub use credentials::InvalidNonce;
pub use devices::DeviceChanges;
pub use enrollment::EnrollOutcome;
pub use operations::{CreatedOperation, NewOperation};
pub use targets::Target;
pub use tokens::{CreatedToken, NewApiToken, NewEnrollmentToken};
pub use uploads::CreatedLink;

/// How devices reach the broker.
#[derive(Clone, Debug)]
pub struct BrokerAccess {
    /// Addresses of the broker that devices receive.
    pub servers: Vec<String>,
    /// Lifetime of a device's JWT.
    pub jwt_ttl: Duration,
}

/// The write side.
#[derive(Clone, Debug)]
pub struct Service {
    /// Channels to devices.
    pub channels: Channels,
    /// Dispatch of operations.
    pub dispatch: Dispatch,
    /// Hellos of devices.
    pub hellos: Hellos,
    /// Output and files of devices.
    pub outputs: Outputs,
    executor: Executor,
    pub(crate) log: EventLog,
    keys: Arc<KeyStore>,
    /// Connection to the devices' account.
    pub(crate) nats: async_nats::Client,
    /// Connection to the system account, for revocations.
    system: async_nats::Client,
    broker: BrokerAccess,
    /// Data that is too large or too private for events.
    blobs: Blobs,
    /// Notified when keys were revoked: the broker must be updated.
    keys_revoked: Arc<Notify>,
    /// Serializes enrollments with one token: all of them append to its stream.
    enrollment_locks: Arc<[Mutex<()>; 64]>,
}

impl Service {
    /// Creates the write side on this log, these keys and these connections.
    #[must_use]
    pub fn new(
        log: &EventLog,
        keys: Arc<KeyStore>,
        nats: async_nats::Client,
        system: async_nats::Client,
        broker: BrokerAccess,
        blobs: Blobs,
    ) -> Self {
        let log = log.with_authority(keys.authority().clone(), keys.authority_verifier());
        let executor = Executor::new(log.clone(), keys.clone());
        Self {
            channels: Channels::new(executor.clone(), keys.clone(), nats.clone(), blobs.clone()),
            dispatch: Dispatch::new(executor.clone(), keys.clone(), nats.clone(), blobs.clone()),
            hellos: Hellos::new(executor.clone(), keys.clone(), nats.clone()),
            outputs: Outputs::new(executor.clone(), keys.clone(), nats.clone(), blobs.clone()),
            executor,
            log,
            keys,
            nats,
            system,
            broker,
            blobs,
            keys_revoked: Arc::default(),
            enrollment_locks: Arc::new(std::array::from_fn(|_| Mutex::default())),
        }
    }

    /// Sets whose shells must be recorded.
    #[must_use]
    pub fn with_recording(mut self, recording: Recording) -> Self {
        self.channels.recording = recording;
        self
    }
}
