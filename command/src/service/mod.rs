//! The write side: one struct for each resource. Each loads the streams that a request concerns,
//! decides, appends (`executor`), and notifies the device, with only the ports that it needs. This
//! module has no knowledge of HTTP.

mod accounts;
mod approvals;
mod bulk;
mod claim_lock;
mod credentials;
mod dead_letters;
mod devices;
mod enrollments;
mod names;
mod operations;
mod projects;
mod targets;
mod token_uses;
mod tokens;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use muster_blobs::Blobs;
use muster_eventlog::EventLog;

use crate::channels::{Channels, Recording};
use crate::device_keys::DeviceKeys;
use crate::dispatch::Dispatch;
use crate::executor::Executor;
use crate::hello::Hellos;
use crate::keys::KeyStore;
use crate::link::Link;
use crate::outputs::Outputs;

pub use accounts::BrokerAccounts;
pub use approvals::Approvals;
pub use bulk::{BulkDevices, BulkTargets, BulkWrite, NewDevice, Outcome};
pub use credentials::{Credentials, InvalidNonce};
pub use dead_letters::DeadLetters;
pub use devices::{DeviceChanges, Devices, PutDevice};
pub use enrollments::{EnrollOutcome, Enrollments};
pub use operations::{CreatedOperation, NewOperation, Operations};
pub use projects::Projects;
pub use targets::{Target, TargetResolver};
pub use token_uses::TokenUses;
pub use tokens::{CreatedToken, NewApiToken, NewEnrollmentToken, Tokens};
pub use uploads::{CreatedLink, Uploads};

/// How devices reach the broker.
#[derive(Clone, Debug)]
pub struct BrokerAccess {
    /// Addresses of the broker that devices receive.
    pub servers: Vec<String>,
    /// Lifetime of a device's JWT.
    pub jwt_ttl: Duration,
}

/// The write side; cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    /// Accounts of the broker.
    pub accounts: BrokerAccounts,
    /// Pending enrollments, and revocation of devices.
    pub approvals: Approvals,
    /// Writes to many devices.
    pub bulk: BulkDevices,
    /// Channels to devices.
    pub channels: Channels,
    /// Broker credentials of devices.
    pub credentials: Credentials,
    /// Dead letters.
    pub dead_letters: DeadLetters,
    /// Devices.
    pub devices: Devices,
    /// Dispatch of operations.
    pub dispatch: Dispatch,
    /// Enrollment of devices.
    pub enrollments: Enrollments,
    /// Requests of devices over the broker.
    pub link: Link,
    /// Operations and their runs.
    pub operations: Operations,
    /// Output and files of devices.
    pub outputs: Outputs,
    /// Projects.
    pub projects: Projects,
    /// Uses of API tokens.
    pub token_uses: TokenUses,
    /// Enrollment tokens and API tokens.
    pub tokens: Tokens,
    /// Uploaded files.
    pub uploads: Uploads,
}

impl Service {
    /// Creates the write side on this log, these keys, these connections to the servers' account and
    /// to the system account, and this blob store.
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
        let accounts = BrokerAccounts::new(log.clone(), keys.clone(), system, broker.jwt_ttl);
        let devices = DeviceKeys::new(executor.clone());
        let credentials = Credentials::new(keys.clone(), devices.clone(), broker);
        let targets = TargetResolver::new(executor.clone(), keys.clone(), nats.clone());
        let dispatch = Dispatch::new(
            executor.clone(),
            keys.clone(),
            devices.clone(),
            nats.clone(),
            blobs.clone(),
        );
        let hellos = Hellos::new(executor.clone(), keys.clone(), devices.clone(), nats.clone());
        let outputs = Outputs::new(executor.clone(), keys.clone(), nats.clone(), blobs.clone());
        let changes = Devices::new(
            executor.clone(),
            keys.clone(),
            devices.clone(),
            nats.clone(),
            accounts.clone(),
        );
        Self {
            approvals: Approvals::new(executor.clone(), accounts.clone()),
            bulk: BulkDevices::new(executor.clone(), changes.clone(), targets.clone()),
            channels: Channels::new(
                executor.clone(),
                keys.clone(),
                devices.clone(),
                nats.clone(),
                blobs.clone(),
            ),
            dead_letters: DeadLetters::new(log.clone(), nats.clone()),
            devices: changes,
            enrollments: Enrollments::new(
                executor.clone(),
                keys.clone(),
                devices,
                credentials.clone(),
                accounts.clone(),
            ),
            link: Link::new(nats, hellos, outputs.clone(), dispatch.clone()),
            operations: Operations::new(executor.clone(), dispatch.clone(), blobs.clone(), targets),
            projects: Projects::new(executor.clone()),
            token_uses: TokenUses::new(log),
            tokens: Tokens::new(executor.clone(), keys.clone()),
            uploads: Uploads::new(executor, keys, outputs.clone(), blobs),
            accounts,
            credentials,
            dispatch,
            outputs,
        }
    }

    /// Sets whose shells must be recorded.
    #[must_use]
    pub fn with_recording(mut self, recording: Recording) -> Self {
        self.channels.recording = recording;
        self
    }
}
