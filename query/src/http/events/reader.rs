//! Reads events of one or all projects for a live stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::response::sse::Event as ServerSent;
use futures::Stream;
use muster_api_types::events::StreamEndReason;
use muster_eventlog::{ReadFilter, StoreError, StoredEvent};
use muster_schemas::errors::error_chain;
use muster_schemas::{DeviceId, Position, ProjectId};

use super::cloud_event::cloud_event;
use super::resume::{Positions, Projects};
use super::view::{Include, view};
use crate::http::sse;
use crate::live_streams::LiveStream;
use crate::state::QueryState;

/// Maximum number of events in one read.
const MAX_EVENTS_PER_READ: u32 = 256;
/// Time for which new events are collected, so that the log is read once for several commits.
const COLLECT_TIME: Duration = Duration::from_millis(50);
/// Age of the last id after which a client gets another one without an event.
const MAX_ID_AGE: Duration = Duration::from_secs(10);
/// Interval between retries when the log cannot be read.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The form in which a client gets events.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// As in lists.
    Plain(Option<Include>),
    /// As CloudEvents.
    CloudEvents,
}

/// State of a client's stream.
pub(super) struct Reader {
    state: QueryState,
    projects: Projects,
    /// Positions up to which the logs were read.
    positions: Positions,
    kinds: Vec<String>,
    device: Option<DeviceId>,
    form: Form,
    /// Messages that were not sent yet; at most [`MAX_EVENTS_PER_READ`], and the first and last one.
    ready: VecDeque<ServerSent>,
    /// The project that was read last: the next read starts after it, so that all get their turn.
    last_read: Option<ProjectId>,
    has_ended: bool,
    /// Time of the last message with an id.
    sent_at: Instant,
    _slot: LiveStream,
}

/// The stream is polled for the next event only when the client has received the previous one.
pub(super) fn events(reader: Reader) -> impl Stream<Item = Result<ServerSent, Infallible>> {
    futures::stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    })
}

impl Reader {
    pub(super) fn new(
        state: QueryState,
        projects: Projects,
        positions: Positions,
        kinds: Vec<String>,
        device: Option<DeviceId>,
        form: Form,
        slot: LiveStream,
    ) -> Self {
        // A client that reconnects before the first event resumes here.
        let start = sse::start();
        let start = match positions.id(&projects, true) {
            Some(id) => start.id(id),
            None => start,
        };
        let ready = [start].into();
        let (last_read, has_ended) = (None, false);
        Self {
            state,
            projects,
            positions,
            kinds,
            device,
            form,
            ready,
            last_read,
            has_ended,
            sent_at: Instant::now(),
            _slot: slot,
        }
    }

    /// Returns the next message; `None` when the stream ends.
    async fn next(&mut self) -> Option<ServerSent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.has_ended {
                return None;
            }
            if self.state.stop.is_cancelled() {
                self.has_ended = true;
                return Some(sse::end(StreamEndReason::ServerStopping));
            }
            match self.read().await {
                Ok(true) => {}
                Ok(false) => self.wait().await,
                Err(error) => {
                    tracing::debug!(
                        error = %error_chain(&error),
                        "failed to read the log for a live stream; trying again"
                    );
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Reads the next range of a log; false when there is none.
    async fn read(&mut self) -> Result<bool, StoreError> {
        // Read before the events: up to this position, no matching event is missed.
        let Some((project, head)) = self.next_range() else { return Ok(false) };
        let filter = ReadFilter {
            after: self.positions.of(&project),
            until: Some(head),
            kinds: self.kinds.clone(),
        };
        let found = self.state.log().read(&project, &filter, MAX_EVENTS_PER_READ).await?;
        let reached = match found.last() {
            Some(last) if found.len() == MAX_EVENTS_PER_READ as usize => last.position,
            _ => head,
        };
        let is_shown =
            |event: &&StoredEvent| self.device.is_none() || event.stream.device() == self.device;
        let shown: Vec<&StoredEvent> = found.iter().filter(is_shown).collect();
        for (index, stored) in shown.iter().enumerate() {
            self.positions.0.insert(project.clone(), stored.position);
            let id = self.positions.id(&self.projects, index + 1 == shown.len());
            self.ready.push_back(message(&project, stored, id, self.form));
        }
        self.positions.0.insert(project.clone(), reached);
        self.last_read = Some(project);
        if shown.is_empty() {
            self.pass();
        } else {
            self.sent_at = Instant::now();
        }
        Ok(true)
    }

    /// Sends the position alone, now and then, while no event is for the client: otherwise it would
    /// resume far behind.
    fn pass(&mut self) {
        if self.sent_at.elapsed() >= MAX_ID_AGE
            && let Some(id) = self.positions.id(&self.projects, true)
        {
            self.ready.push_back(ServerSent::default().id(id));
            self.sent_at = Instant::now();
        }
    }

    /// Returns the next project with events that were not read, and the end of its log.
    fn next_range(&self) -> Option<(ProjectId, Position)> {
        match &self.projects {
            Projects::One(project) => {
                let head = self.state.follower.head(project);
                (head > self.positions.of(project)).then(|| (project.clone(), head))
            }
            Projects::All => {
                let mut unread: Vec<(ProjectId, Position)> =
                    self.state.follower.heads().into_iter().collect();
                unread.retain(|(project, head)| *head > self.positions.of(project));
                unread.sort_unstable();
                let is_next = |(project, _): &&(ProjectId, Position)| {
                    self.last_read.as_ref().is_none_or(|last| project > last)
                };
                unread.iter().find(is_next).or_else(|| unread.first()).cloned()
            }
        }
    }

    /// Waits until a log grows or this process stops.
    async fn wait(&self) {
        let follower = &self.state.follower;
        let grows = async {
            match &self.projects {
                Projects::One(project) => {
                    follower.wait_beyond(project, self.positions.of(project)).await;
                }
                Projects::All => follower.wait_beyond_any(&self.positions.0).await,
            }
        };
        tokio::select! {
            () = self.state.stop.cancelled() => {}
            () = grows => tokio::time::sleep(COLLECT_TIME).await,
        }
    }
}

fn message(
    project: &ProjectId,
    stored: &StoredEvent,
    id: Option<String>,
    form: Form,
) -> ServerSent {
    let data = match form {
        Form::Plain(include) => serde_json::to_string(&view(project, stored, include)),
        Form::CloudEvents => serde_json::to_string(&cloud_event(view(project, stored, None))),
    };
    let message = ServerSent::default().event(&stored.kind).data(data.unwrap_or_default());
    match id {
        Some(id) => message.id(id),
        None => message,
    }
}
