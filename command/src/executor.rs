//! The executor of decisions: loads the streams that a request concerns, appends what was decided,
//! and repeats the decision when another append has changed the streams meanwhile.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, Mac};
use muster_eventlog::{
    AccessStamp, Append, AppendError, Appended, EventLog, Expected, NewEvent, StoredEvent,
};
use muster_schemas::{Event, Hash, Position, ProjectId, StreamName, StreamVersion};
use parking_lot::Mutex;
use sha2::Sha256;

use crate::clock::now;
use crate::domain::project::Project;
use crate::domain::{Conflict, Decider, Rejection};
use crate::error::CommandError;
use crate::keys::KeyStore;
use crate::loaded_states::LoadedStates;
use crate::request::{Request, Written};

/// Maximum number of attempts of a decision whose streams change concurrently.
const MAX_ATTEMPTS: u32 = 12;

/// The state of an aggregate, and its stream's version.
pub(crate) struct Loaded<D> {
    pub(crate) state: D,
    pub(crate) version: StreamVersion,
}

/// A part of an append: a stream, its expected version, and its new events.
pub(crate) type Part = (StreamName, StreamVersion, Vec<Event>);

/// The events that were decided on a stream.
pub(crate) struct Decided {
    /// New events of the stream.
    pub(crate) events: Vec<Event>,
    /// Events of other streams in the same append.
    pub(crate) others: Vec<Part>,
}

impl From<Vec<Event>> for Decided {
    fn from(events: Vec<Event>) -> Self {
        Self { events, others: Vec::new() }
    }
}

/// Maximum number of streams whose events are in memory at the same time.
const MAX_STREAMS_PER_QUERY: usize = 100;
/// Maximum number of projects of which the executor keeps whether they are archived.
const MAX_CACHED_PROJECTS: usize = 1_000;

/// Loads, appends and repeats; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Executor {
    pub(crate) log: EventLog,
    keys: Arc<KeyStore>,
    states: LoadedStates,
    /// Whether projects are archived, as last read.
    archived: Arc<Mutex<HashMap<ProjectId, (AccessStamp, bool)>>>,
}

impl Executor {
    /// Creates an executor on a log that proves the authority of its appends.
    pub(crate) fn new(log: EventLog, keys: Arc<KeyStore>) -> Self {
        Self { log, keys, states: LoadedStates::default(), archived: Arc::default() }
    }

    /// Carries out a request on one stream once: a retried request gets its first result. `decide` is
    /// repeated when a stream has changed; the client's expected version is compared afterwards, so
    /// that a request that would be refused anyway gets that reason.
    pub(crate) async fn carry_out<D, F>(
        &self,
        request: &Request,
        stream: StreamName,
        decide: impl Fn(D) -> F,
    ) -> Result<Written, CommandError>
    where
        D: Decider,
        F: Future<Output = Result<Decided, CommandError>>,
    {
        if let Some(written) = self.previous_result(request, &stream).await? {
            return Ok(written);
        }
        until_appended(|| async {
            let loaded = self.load::<D>(&request.project, &stream).await?;
            let decided = decide(loaded.state).await?;
            request.check_version(loaded.version)?;
            self.try_write(request, &stream, loaded.version, decided).await
        })
        .await
    }

    /// Appends what was decided on a version of a stream; `None` when a stream has changed.
    async fn try_write(
        &self,
        request: &Request,
        stream: &StreamName,
        version: StreamVersion,
        Decided { events, others }: Decided,
    ) -> Result<Option<Written>, CommandError> {
        let newest = version + events.len() as u64;
        let mut parts = vec![(stream.clone(), version, events)];
        parts.extend(others);
        let position = self.try_append(request, parts).await?;
        Ok(position.map(|position| Written { version: newest, position }))
    }

    /// Decides a command on one stream, and appends the events.
    pub(crate) async fn execute<D>(
        &self,
        request: &Request,
        stream: &StreamName,
        command: D::Command,
    ) -> Result<Written, CommandError>
    where
        D: Decider<Command: Clone>,
    {
        until_appended(|| async {
            let loaded = self.load::<D>(&request.project, stream).await?;
            let events = loaded.state.decide(command.clone())?;
            self.try_write(request, stream, loaded.version, events.into()).await
        })
        .await
    }

    /// Folds a stream into the state of its aggregate.
    pub(crate) async fn load<D: Decider>(
        &self,
        project: &ProjectId,
        stream: &StreamName,
    ) -> Result<Loaded<D>, CommandError> {
        let (mut state, mut version) = (D::default(), StreamVersion::ZERO);
        let mut stored = Vec::new();
        if let Some(kept) = self.states.get::<D>(project, stream) {
            stored = self.log.read_stream_from(project, stream, kept.version).await?;
            // Otherwise the log was restored from a backup.
            if stored.first().is_some_and(|first| kept.ends_with(first)) {
                stored.remove(0);
                (state, version) = (kept.state, kept.version);
            }
        }
        if version == StreamVersion::ZERO {
            stored = self.log.read_stream(project, stream).await?;
        }
        let Some(newest) = stored.last().cloned() else {
            return Ok(Loaded { state, version });
        };
        for stored in self.log.authentic(project, stored).await {
            state = state.evolve(&stored.event()?);
        }
        if !state.is_large() {
            self.states.put(project, stream, &newest, &state);
        }
        Ok(Loaded { state, version: newest.stream_version })
    }

    /// Folds many streams, each into the state of its aggregate, with few queries. Streams without an
    /// event are omitted.
    pub(crate) async fn load_all<D: Decider>(
        &self,
        project: &ProjectId,
        streams: BTreeSet<StreamName>,
    ) -> Result<HashMap<StreamName, D>, CommandError> {
        let mut states = HashMap::with_capacity(streams.len());
        let streams: Vec<StreamName> = streams.into_iter().collect();
        for streams in streams.chunks(MAX_STREAMS_PER_QUERY) {
            let stored = self.log.read_streams(project, streams, &[]).await?;
            for stored in self.log.authentic(project, stored).await {
                let event = stored.event()?;
                let state = states.remove(&stored.stream).unwrap_or_else(D::default);
                states.insert(stored.stream, state.evolve(&event));
            }
        }
        Ok(states)
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
    ) -> Result<Option<Appended>, CommandError> {
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
    ) -> Result<Option<(Appended, Vec<StoredEvent>)>, CommandError> {
        let Some(appended) = self.appended(request).await? else { return Ok(None) };
        let positions: Vec<Position> =
            (appended.first.get()..=appended.last.get()).map(Position).collect();
        let events = self.log.read_positions(&request.project, &positions).await?;
        Ok(Some((appended, events)))
    }

    /// Returns the result of the request's first attempt.
    pub(crate) async fn previous_result(
        &self,
        request: &Request,
        stream: &StreamName,
    ) -> Result<Option<Written>, CommandError> {
        if !request.may_be_repeated {
            return Ok(None);
        }
        let Some((appended, events)) = self.first_result(request).await? else { return Ok(None) };
        let version = events
            .iter()
            .filter(|event| event.stream == *stream)
            .map(|event| event.stream_version)
            .max()
            .unwrap_or(StreamVersion::ZERO);
        Ok(Some(Written { version, position: appended.last }))
    }

    /// Appends decided events; `None` when a stream has changed and the decision must be repeated.
    pub(crate) async fn try_append(
        &self,
        request: &Request,
        parts: Vec<Part>,
    ) -> Result<Option<Position>, CommandError> {
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
            return Ok(Some(self.log.newest_position(&request.project).await?));
        }
        self.check_not_archived(&request.project).await?;
        match self.log.append(&request.project, append).await {
            Ok(appended) => Ok(Some(appended.last)),
            Err(AppendError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Rejects changes in an archived project. What was read is used while no project has changed,
    /// and for less than a second.
    pub(crate) async fn check_not_archived(&self, project: &ProjectId) -> Result<(), CommandError> {
        if project.is_system() {
            return Ok(());
        }
        if self.is_archived(project).await? {
            return Err(Rejection::from(Conflict::ProjectArchived(project.clone())).into());
        }
        Ok(())
    }
}

impl Executor {
    async fn is_archived(&self, project: &ProjectId) -> Result<bool, CommandError> {
        let cached = self.archived.lock().get(project).copied();
        if let Some((stamp, is_archived)) = cached
            && self.log.is_current(&stamp)
        {
            return Ok(is_archived);
        }
        let stamp = self.log.access_stamp();
        let stream = StreamName::Project(project.clone());
        let existing = self.load::<Project>(&ProjectId::system(), &stream).await?;
        let is_archived = existing.state.is_archived;
        let mut archived = self.archived.lock();
        if archived.len() >= MAX_CACHED_PROJECTS {
            archived.clear();
        }
        archived.insert(project.clone(), (stamp, is_archived));
        Ok(is_archived)
    }
}

/// Repeats a decision until its append succeeds, or fails for another reason than a conflict; at
/// most [`MAX_ATTEMPTS`] times. `decide` returns `None` when a stream has changed.
pub(crate) async fn until_appended<T, F>(mut decide: impl FnMut() -> F) -> Result<T, CommandError>
where
    F: Future<Output = Result<Option<T>, CommandError>>,
{
    for attempt in 1..=MAX_ATTEMPTS {
        if let Some(done) = decide().await? {
            return Ok(done);
        }
        back_off(attempt).await;
    }
    Err(Rejection::from(Conflict::TooManyChanges).into())
}

/// Waits for a random time that grows with each attempt, so that conflicting requests do not meet
/// again.
async fn back_off(attempts: u32) {
    let most = 5_u64 << attempts.min(6);
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..most))).await;
}
