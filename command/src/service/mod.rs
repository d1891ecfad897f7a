//! The write side: loads the streams that a request concerns, decides, appends, notifies the
//! device.
//!
//! After a conflict with another append, the decision is repeated on the streams' new state. This
//! module has no knowledge of HTTP.

mod approval;
mod catch_up;
mod credentials;
mod dead_letters;
mod devices;
mod enrollment;
mod epochs;
mod live_output;
mod operations;
mod output;
mod projects;
mod revocation;
mod token_uses;
mod tokens;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, Mac};
use muster_api::blobs::{BlobError, Blobs};
use muster_eventlog::projection::Progress;
use muster_eventlog::{
    Append, AppendError, Appended, EventLog, Expected, NewEvent, StoreError, StoredEvent,
};
use muster_schemas::events::{EventError, Role};
use muster_schemas::{Event, Hash, ProjectId, StreamName, Timestamp};
use sha2::Sha256;
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

use crate::channels::Relays;
use crate::domain::{Decider, Rejection};
use crate::keys::{KeyError, KeyStore};

use epochs::EpochLimit;

pub use credentials::InvalidNonce;
pub use devices::DeviceChanges;
pub use enrollment::EnrollOutcome;
pub use operations::{CreatedOperation, NewOperation, Target};
pub use tokens::{CreatedToken, NewApiToken, NewEnrollmentToken};
pub use uploads::CreatedLink;

/// Maximum number of attempts of a decision whose streams change concurrently.
pub(crate) const MAX_ATTEMPTS: u32 = 12;

/// How devices reach the broker.
#[derive(Clone, Debug)]
pub struct BrokerAccess {
    /// Addresses of the broker that devices receive.
    pub servers: Vec<String>,
    /// Lifetime of a device's JWT.
    pub jwt_ttl: Duration,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The domain rules reject it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The resource's version is not the one that the client expects.
    #[error("the resource is at version {0}")]
    VersionMismatch(u64),
    /// A device has not proved its identity.
    #[error("{0}")]
    IdentityNotProven(String),
    /// The log failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The append failed.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A stored event cannot be read.
    #[error("a stored event cannot be read")]
    Stored(#[from] EventError),
    /// The blobs could not be read or written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A key could not be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The broker is unavailable.
    #[error("the broker is unavailable: {0}")]
    Broker(String),
    /// The query role cannot resolve the target selector.
    #[error("failed to resolve the target selector: {0}")]
    Query(String),
}

/// The actor, the project and the preconditions of a request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Project of the request.
    pub project: ProjectId,
    /// Actor of the request: `token:<id>`, `device:<id>` …
    pub actor: String,
    /// Append id: the same for each retry.
    pub append_id: Uuid,
    /// Hash of the body, when the client sent an `Idempotency-Key`.
    pub request_hash: Option<Hash>,
    /// Versions of the resource that the client expects; any when `None`.
    pub versions: Option<Vec<u64>>,
}

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Newest version of the resource's own stream.
    pub version: u64,
    /// Position of the newest event; the end of the log when nothing had to change.
    pub position: u64,
}

/// The write side.
#[derive(Clone, Debug)]
pub struct Service {
    pub(crate) log: EventLog,
    pub(crate) keys: Arc<KeyStore>,
    /// Connection to the devices' account.
    pub(crate) nats: async_nats::Client,
    /// Connection to the system account, for revocations.
    pub(crate) system: async_nats::Client,
    pub(crate) broker: BrokerAccess,
    /// Data that is too large or too private for events.
    pub(crate) blobs: Blobs,
    /// How much of each output is stored.
    pub(crate) outputs: Arc<output::OutputCache>,
    /// Outputs that are followed.
    pub(crate) live_outputs: Arc<live_output::LiveOutputs>,
    /// Notified when keys were revoked: the broker must be updated.
    pub(crate) keys_revoked: Arc<Notify>,
    /// Serializes enrollments with one token: all of them append to its stream.
    pub(crate) enrollment_locks: Arc<[Mutex<()>; 64]>,
    /// Rate limit of requests for new epochs.
    pub(crate) epoch_limit: Arc<EpochLimit>,
    /// Open relays.
    pub(crate) relays: Arc<Relays>,
    /// Whose shells are recorded.
    pub(crate) recording: Recording,
    /// Progress of the work queue's projection in this process.
    pub(crate) dispatch_progress: Progress,
}

/// Whose shells must be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recording {
    /// Those of operators; an admin may open an unrecorded shell.
    #[default]
    Operators,
    /// All shells.
    Everyone,
}

impl Recording {
    /// Whether shells of this role must be recorded.
    pub(crate) fn is_required_for(self, role: Role) -> bool {
        self == Self::Everyone || role != Role::Admin
    }
}

/// The state of an aggregate, and its stream's version.
pub(crate) struct Loaded<D> {
    pub(crate) state: D,
    pub(crate) version: u64,
}

impl Service {
    /// Creates the write side on this log, these keys and these connections.
    #[must_use]
    pub fn new(
        log: EventLog,
        keys: Arc<KeyStore>,
        nats: async_nats::Client,
        system: async_nats::Client,
        broker: BrokerAccess,
        blobs: Blobs,
    ) -> Self {
        Self {
            blobs,
            outputs: Arc::default(),
            live_outputs: Arc::default(),
            log: log.with_authority(keys.authority().clone(), keys.authority_verifier()),
            keys,
            nats,
            system,
            broker,
            keys_revoked: Arc::default(),
            enrollment_locks: Arc::new(std::array::from_fn(|_| Mutex::default())),
            epoch_limit: Arc::default(),
            relays: Arc::default(),
            recording: Recording::default(),
            dispatch_progress: Progress::default(),
        }
    }

    /// Sets whose shells must be recorded.
    #[must_use]
    pub fn with_recording(self, recording: Recording) -> Self {
        Self { recording, ..self }
    }

    pub(crate) async fn load<D: Decider>(
        &self,
        project: &ProjectId,
        stream: &StreamName,
    ) -> Result<Loaded<D>, ServiceError> {
        let stored = self.log.read_stream(project, stream).await?;
        let version = stored.last().map_or(0, |event| event.stream_version);
        let stored = self.log.authentic(project, stored).await;
        let events: Vec<Event> = stored.iter().map(StoredEvent::event).collect::<Result<_, _>>()?;
        Ok(Loaded { state: D::fold(&events), version })
    }

    /// Returns the hash of a request that is stored with its append id. It is keyed, because the
    /// body may contain a secret that can be guessed.
    pub(crate) fn stored_hash(&self, request: &Request) -> Option<Hash> {
        let hash = request.request_hash?;
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(self.keys.token_key()).expect("any length");
        mac.update(b"muster/request-hash/v1");
        mac.update(&hash.0);
        Some(Hash(mac.finalize().into_bytes().into()))
    }

    /// Returns the positions of the events of the request's first attempt, if there was one.
    pub(crate) async fn appended(
        &self,
        request: &Request,
    ) -> Result<Option<Appended>, ServiceError> {
        let appended = self.log.appended(&request.project, request.append_id).await?;
        match appended {
            Some(appended) if !appended.belongs_to(self.stored_hash(request)) => {
                Err(AppendError::IdReused.into())
            }
            appended => Ok(appended),
        }
    }

    /// Returns the events of the request's first attempt, if there was one.
    pub(crate) async fn first_result(
        &self,
        request: &Request,
    ) -> Result<Option<(Appended, Vec<StoredEvent>)>, ServiceError> {
        let Some(appended) = self.appended(request).await? else { return Ok(None) };
        let positions: Vec<u64> = (appended.first..=appended.last).collect();
        let events = self.log.read_positions(&request.project, &positions).await?;
        Ok(Some((appended, events)))
    }

    /// Appends decided events; `None` when a stream has changed and the decision must be repeated.
    pub(crate) async fn try_append(
        &self,
        request: &Request,
        parts: Vec<(StreamName, u64, Vec<Event>)>,
    ) -> Result<Option<u64>, ServiceError> {
        let now = now();
        let mut append = Append {
            append_id: Some(request.append_id),
            request_hash: self.stored_hash(request),
            correlation: Some(request.append_id),
            ..Append::by_actor(request.actor.clone())
        };
        for (stream, version, events) in parts {
            if !events.is_empty() {
                let events = events.iter().map(|event| NewEvent::server(event, now)).collect();
                append = append.stream(stream, Expected::Version(version), events);
            }
        }
        if append.streams.is_empty() {
            let head = self.log.head(&request.project).await?;
            return Ok(Some(head.map_or(0, |head| head.position)));
        }
        self.check_not_archived(&request.project).await?;
        match self.log.append(&request.project, append).await {
            Ok(appended) => Ok(Some(appended.last)),
            Err(AppendError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Request {
    /// Compares the version that the client expects with the resource's.
    pub(crate) fn check_version(&self, version: u64) -> Result<(), ServiceError> {
        match &self.versions {
            Some(versions) if !versions.contains(&version) => {
                Err(ServiceError::VersionMismatch(version))
            }
            _ => Ok(()),
        }
    }
}

/// Repeats a decision until its append succeeds, or fails for another reason than a
/// conflict; at most `MAX_ATTEMPTS` times.
macro_rules! until_appended {
    ($decide:expr) => {{
        let mut tries = 0;
        loop {
            if let Some(done) = $decide {
                break Ok(done);
            }
            tries += 1;
            $crate::service::back_off(tries).await;
            if tries == $crate::service::MAX_ATTEMPTS {
                break Err($crate::service::ServiceError::Rejected(
                    $crate::domain::Rejection::Conflict(
                        "it is being changed by many requests concurrently; try again".to_owned(),
                    ),
                ));
            }
        }
    }};
}
pub(crate) use until_appended;

/// Waits for a random time that grows with each attempt, so that conflicting requests do not meet
/// again.
pub(crate) async fn back_off(attempts: u32) {
    let most = 5_u64 << attempts.min(6);
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..most))).await;
}

/// Returns the time of the system's clock.
pub(crate) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}
