//! The write side's work: load the streams that a request is about, decide, append, tell the device.
//!
//! An append that met another one is decided again on what the streams say then. Nothing is known
//! here of HTTP.

mod credentials;
mod dead_letters;
mod devices;
mod enrollment;
mod epochs;
mod joining;
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

use crate::channels::Bridges;
use crate::domain::{Decider, Rejection};
use crate::keys::{KeyError, KeyStore};

use epochs::EpochLimit;

pub use credentials::InvalidNonce;
pub use devices::DeviceChanges;
pub use enrollment::EnrollAnswer;
pub use operations::{NewOperation, OperationMade, Target};
pub use tokens::{MadeToken, NewApiToken, NewEnrollmentToken};
pub use uploads::LinkMade;

/// How often a decision is made again when its streams had moved on.
pub(crate) const TRIES: u32 = 12;

/// How devices reach the broker.
#[derive(Clone, Debug)]
pub struct BrokerAccess {
    /// The addresses that devices are told.
    pub servers: Vec<String>,
    /// How long a device's JWT works.
    pub jwt_life: Duration,
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A business "no".
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The resource is at another version than the client believes.
    #[error("it is at version {0} now")]
    Changed(u64),
    /// A device has not proved who it is.
    #[error("{0}")]
    Unproved(String),
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
    /// The broker is away.
    #[error("the broker is away: {0}")]
    Broker(String),
    /// The query role cannot say which devices are meant.
    #[error("which devices are meant is not known: {0}")]
    Query(String),
}

/// Who asks, and under which conditions.
#[derive(Clone, Debug)]
pub struct Request {
    /// The project.
    pub project: ProjectId,
    /// Who: `token:<id>`, `device:<id>` …
    pub actor: String,
    /// The append's id: the same for each retry.
    pub append_id: Uuid,
    /// Hash of the body, when the client sent an `Idempotency-Key`.
    pub request_hash: Option<Hash>,
    /// The versions of the resource that the client would change; any when `None`.
    pub versions: Option<Vec<u64>>,
}

/// What a write has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The newest version of the resource's own stream.
    pub version: u64,
    /// The position of the newest event; where the log ended before when nothing had to change.
    pub position: u64,
}

/// The write side.
#[derive(Clone, Debug)]
pub struct Service {
    pub(crate) log: EventLog,
    pub(crate) keys: Arc<KeyStore>,
    /// The devices' account.
    pub(crate) nats: async_nats::Client,
    /// The system account, for revocations.
    pub(crate) system: async_nats::Client,
    pub(crate) broker: BrokerAccess,
    /// What is too large or too private for events.
    pub(crate) blobs: Blobs,
    /// How much of each output is there already.
    pub(crate) outputs: Arc<output::Outputs>,
    /// Outputs that are followed.
    pub(crate) live: Arc<live_output::LiveOutputs>,
    /// Something was revoked: the broker is to be told.
    pub(crate) revoked: Arc<Notify>,
    /// Enrollments with one token take turns: they all append to its stream.
    pub(crate) enrolling: Arc<[Mutex<()>; 64]>,
    /// How often devices may ask for a new epoch.
    pub(crate) epochs: Arc<EpochLimit>,
    /// The websockets that lead to devices.
    pub(crate) bridges: Arc<Bridges>,
    /// Whose shells are recorded.
    pub(crate) recording: Recording,
    /// How far the dispatcher's list has come in this process.
    pub(crate) dispatch_progress: Progress,
}

/// Whose shells are recorded, whether they want it or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recording {
    /// Those of operators; an admin may say no.
    #[default]
    Operators,
    /// Those of all.
    Everyone,
}

impl Recording {
    /// Is it asked of this role?
    pub(crate) fn is_asked_of(self, role: Role) -> bool {
        self == Self::Everyone || role != Role::Admin
    }
}

/// An aggregate as its stream has it.
pub(crate) struct Loaded<D> {
    pub(crate) state: D,
    pub(crate) version: u64,
}

impl Service {
    /// The write side on this log, these keys and these connections.
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
            live: Arc::default(),
            log: log.with_authority(keys.authority().clone(), keys.authority_verifier()),
            keys,
            nats,
            system,
            broker,
            revoked: Arc::default(),
            enrolling: Arc::new(std::array::from_fn(|_| Mutex::default())),
            epochs: Arc::default(),
            bridges: Arc::default(),
            recording: Recording::default(),
            dispatch_progress: Progress::default(),
        }
    }

    /// The same, with a rule on whose shells are recorded.
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

    /// The hash of a request as it is stored beside its append id. It is keyed: the body may hold a
    /// secret that can be guessed.
    pub(crate) fn stored_hash(&self, request: &Request) -> Option<Hash> {
        let hash = request.request_hash?;
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(self.keys.token_key()).expect("any length");
        mac.update(b"muster/request-hash/v1");
        mac.update(&hash.0);
        Some(Hash(mac.finalize().into_bytes().into()))
    }

    /// Where the events of the request's first attempt are, if there was one.
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

    /// What the request got when it was first sent, if it was.
    pub(crate) async fn first_result(
        &self,
        request: &Request,
    ) -> Result<Option<(Appended, Vec<StoredEvent>)>, ServiceError> {
        let Some(appended) = self.appended(request).await? else { return Ok(None) };
        let positions: Vec<u64> = (appended.first..=appended.last).collect();
        let events = self.log.read_positions(&request.project, &positions).await?;
        Ok(Some((appended, events)))
    }

    /// Appends decided events; `None` when a stream had moved on and it is to be decided again.
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
            ..Append::by(request.actor.clone())
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
    /// Holds the client's belief to the resource's version.
    pub(crate) fn check_version(&self, version: u64) -> Result<(), ServiceError> {
        match &self.versions {
            Some(versions) if !versions.contains(&version) => Err(ServiceError::Changed(version)),
            _ => Ok(()),
        }
    }
}

/// Runs a decision until its append is in, or something other than a race stops it.
macro_rules! until_appended {
    ($decide:expr) => {{
        let mut tries = 0;
        loop {
            if let Some(done) = $decide {
                break Ok(done);
            }
            tries += 1;
            $crate::service::let_others(tries).await;
            if tries == TRIES {
                break Err($crate::service::ServiceError::Rejected(
                    $crate::domain::Rejection::Conflict(
                        "it is being changed by many at once; try again".to_owned(),
                    ),
                ));
            }
        }
    }};
}
pub(crate) use until_appended;

/// A wait that grows with each try and is another one each time, so that those who met do not meet
/// again.
pub(crate) async fn let_others(tries: u32) {
    let most = 5_u64 << tries.min(6);
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..most))).await;
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}
