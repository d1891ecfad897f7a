//! `GET /operations/{id}/runs/{device}/output`: the stored output of a program, and its live
//! output.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use async_nats::Subscriber;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use muster_api::auth::ReadOutput;
use muster_api::params::ProjectParam;
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{MinPosition, PathParam, Problem, Query, Scope};
use muster_api_types::schema;
use muster_blobs::key::{self, Piece};
use muster_schemas::errors::error_chain;
use muster_schemas::wire::internal::{OUTPUT_READ_SUBJECT, OutputRead, output_subject};
use muster_schemas::wire::{MAX_OUTPUT_BYTES, MAX_PIECE_BYTES, OutputStream};
use muster_schemas::{DeviceId, OperationId, Position, ProjectId, codec, compress};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::runs::find_run;
use crate::http::devices::resolve;
use crate::live_streams::LiveStream;
use crate::state::QueryState;

/// Interval between lists of the pieces while no notification of new ones is received.
const LIST_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum interval between checks after changes of the read model, which may be continuous.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// Time after a run's end for which the rest of its output may still arrive from the device.
const LATE_OUTPUT_TIMEOUT: Duration = Duration::from_secs(30);

/// Delay of a follower's first report: a program that ends sooner needs none. Shorter than the time
/// for which a device waits for a follower.
const FIRST_REPORT_DELAY: Duration = Duration::from_millis(250);
/// Interval between a follower's reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Reports the read position of an output while it is followed.
struct Follower {
    position: watch::Sender<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Follower {
    fn start(nats: async_nats::Client, mut read: OutputRead) -> Self {
        let (position, mut moved) = watch::channel(read.position);
        let task = tokio::spawn(async move {
            let is_resumed = read.position >= MAX_OUTPUT_BYTES;
            let mut delay = if is_resumed { Duration::ZERO } else { FIRST_REPORT_DELAY };
            loop {
                // The device sends output that is kept without regard to its followers.
                let is_live = *moved.borrow() >= MAX_OUTPUT_BYTES;
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    Ok(()) = moved.changed(), if is_live => {}
                }
                delay = REPORT_INTERVAL;
                read.position = *moved.borrow_and_update();
                let report = codec::encode(&read).into();
                if let Err(error) = nats.publish(OUTPUT_READ_SUBJECT, report).await {
                    tracing::debug!(%error, "failed to report a follower's position");
                }
            }
        });
        Self { position, _task: AbortOnDropHandle::new(task) }
    }

    fn has_read(&self, position: u64) {
        self.position.send_replace(position);
    }
}

/// Parameters of the request.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetOutput {
    /// Stream of the output; default `stdout`.
    #[serde(default)]
    #[param(inline, value_type = Option<OutputName>)]
    stream: OutputName,
    /// Offset of the first byte.
    #[serde(default)]
    #[param(value_type = Option<u64>, minimum = 0)]
    from: u64,
    /// Continue until the run has ended and all of its kept output was sent.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    follow: bool,
}

/// An output of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OutputName {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
}

impl From<OutputName> for OutputStream {
    fn from(name: OutputName) -> Self {
        match name {
            OutputName::Stdout => Self::Stdout,
            OutputName::Stderr => Self::Stderr,
        }
    }
}

/// Get the output of a program
///
/// The bytes as the program wrote them, up to 4 MiB of each output; the run has the number of bytes
/// that were written. With `follow`, the response continues while the program runs, also beyond 4
/// MiB: the program waits for a slow reader. Output beyond 4 MiB that is not followed is dropped.
#[utoipa::path(
    get, path = "/api/v1/operations/{operation}/runs/{device}/output", tag = "operations",
    security(("bearer" = [])),
    params(
        ("operation" = schema::OperationId, Path, description = "The operation's id"),
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        GetOutput, ProjectParam, MinPositionParam,
    ),
    responses(
        (status = 200, description = "The output", body = inline(schema::Bytes),
            content_type = "application/octet-stream", example = "Linux robot-7 6.1.0\n"),
        ReadProblems,
    )
)]
pub(crate) async fn get_run_output(
    State(state): State<QueryState>,
    scope: Scope<ReadOutput>,
    min_position: MinPosition,
    PathParam((operation, device)): PathParam<(OperationId, String)>,
    Query(query): Query<GetOutput>,
) -> Result<Response, Problem> {
    let project = scope.project;
    min_position.wait(state.log(), &state.read_models.operations, &project).await?;
    let device = resolve(&state, &project, &device).await?;
    find_run(&state, &project, operation, device).await?;
    let slot = state.streams.acquire(&scope.principal)?;
    let notifications = match query.follow {
        true => {
            let subject = output_subject(&project, operation, device);
            state.nats.subscribe(subject).await.ok()
        }
        false => None,
    };
    let follower = query.follow.then(|| {
        let read = OutputRead {
            project: project.clone(),
            operation,
            device,
            stream: query.stream.into(),
            follower: Uuid::new_v4(),
            position: query.from,
        };
        Follower::start(state.nats.clone(), read)
    });
    let reader = Reader {
        live_folder: key::live_output(&project, operation, device, query.stream.into()),
        follower,
        folder: key::output(&project, operation, device, query.stream.into()),
        ready: Vec::new(),
        end: query.from,
        ended_at: None,
        read_at: Instant::now(),
        notifications,
        checked_at: Instant::now(),
        listed_at: Instant::now(),
        progress: state.read_models.operations.subscribe(),
        query,
        project,
        operation,
        device,
        state,
        _slot: slot,
    };
    let body = futures::stream::try_unfold(reader, |mut reader| async move {
        let bytes = reader.next().await.map_err(|problem| {
            tracing::warn!(folder = reader.folder, problem, "failed to read an output completely");
            io::Error::other(problem)
        })?;
        Ok::<_, io::Error>(bytes.map(|bytes| (bytes, reader)))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// State of a reader of an output.
struct Reader {
    state: QueryState,
    project: ProjectId,
    operation: OperationId,
    device: DeviceId,
    query: GetOutput,
    folder: String,
    /// Folder of the output that is not kept.
    live_folder: String,
    /// Reports the read position.
    follower: Option<Follower>,
    /// Pieces that were listed and not read yet, the last one first.
    ready: Vec<Piece>,
    /// Offset up to which the output was read.
    end: u64,
    /// Time at which the run was found to have ended.
    ended_at: Option<Instant>,
    /// Time at which the last piece was read.
    read_at: Instant,
    notifications: Option<Subscriber>,
    /// Times of the last check of the run, and of the last list of the pieces.
    checked_at: Instant,
    listed_at: Instant,
    /// Notifies of changes of the read model.
    progress: watch::Receiver<HashMap<ProjectId, Position>>,
    _slot: LiveStream,
}

impl Reader {
    /// Returns the next bytes; `None` at the end. On an error the response is aborted, so that a
    /// client does not take it for complete, but continues from its offset.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let (mut may_be_more, mut missed) = (true, 0);
        loop {
            while let Some(piece) = self.ready.pop() {
                match self.read(piece).await? {
                    Some(bytes) if bytes.is_empty() => {}
                    Some(bytes) => return Ok(Some(bytes)),
                    // Merged with the next piece meanwhile, or erased.
                    None if missed < 5 => {
                        missed += 1;
                        self.ready.clear();
                        may_be_more = true;
                    }
                    None => return Err(format!("{}/{} is missing", self.folder, piece.name())),
                }
            }
            // Changes from here on, including those during this check, end the next wait.
            self.progress.mark_unchanged();
            self.checked_at = Instant::now();
            // Checked before the pieces are listed: the list then includes all output up to the
            // run's end.
            let is_complete = self.query.follow && self.is_complete().await?;
            // A change of the log does not imply new pieces, and a list may be expensive.
            if may_be_more || is_complete {
                self.listed_at = Instant::now();
                self.ready = self.pieces().await?;
            }
            if self.ready.is_empty() {
                if !self.query.follow || is_complete {
                    return Ok(None);
                }
                if self.state.stop.is_cancelled() {
                    return Err("the server is stopping".to_owned());
                }
                may_be_more = self.wait().await;
            }
        }
    }

    /// Lists pieces beyond the read position, the last one first.
    async fn pieces(&self) -> Result<Vec<Piece>, String> {
        let is_live = self.end >= MAX_OUTPUT_BYTES;
        let folder = if is_live { &self.live_folder } else { &self.folder };
        let found = self.state.blobs.list(folder).await.map_err(|error| error_chain(&error))?;
        let pieces =
            if is_live { key::contiguous_from(&found, self.end) } else { key::contiguous(&found) };
        Ok(pieces.into_iter().filter(|piece| piece.end() > self.end).rev().collect())
    }

    /// Returns the part of a piece that was not read yet; `None` when the piece does not exist.
    async fn read(&mut self, piece: Piece) -> Result<Option<Bytes>, String> {
        let is_live = piece.offset >= MAX_OUTPUT_BYTES;
        let folder = if is_live { &self.live_folder } else { &self.folder };
        let name = format!("{folder}/{}", piece.name());
        let found = self.state.blobs.get(&name).await.map_err(|error| error_chain(&error))?;
        let Some(bytes) = found else { return Ok(None) };
        let bytes = if piece.is_compressed {
            let whole = compress::decompress(&bytes, MAX_PIECE_BYTES);
            Bytes::from(whole.ok_or_else(|| format!("{name} is damaged"))?)
        } else {
            bytes
        };
        let skipped = usize::try_from(self.end.saturating_sub(piece.offset)).unwrap_or(usize::MAX);
        self.end = piece.end().max(self.end);
        self.read_at = Instant::now();
        if let Some(follower) = &self.follower {
            follower.has_read(self.end);
        }
        Ok(Some(bytes.slice(skipped.min(bytes.len())..)))
    }

    /// Whether the run has ended and no more of the output will arrive.
    async fn is_complete(&mut self) -> Result<bool, String> {
        let run = find_run(&self.state, &self.project, self.operation, self.device).await;
        let (_, _, run) = run.map_err(|problem| format!("{problem:?}"))?;
        if !run.state.is_final() {
            return Ok(false);
        }
        let ended = *self.ended_at.get_or_insert_with(Instant::now);
        let summary = run.report.map(|report| match self.query.stream {
            OutputName::Stdout => report.stdout,
            OutputName::Stderr => report.stderr,
        });
        let (bytes, kept) = summary.map_or((0, 0), |summary| (summary.bytes, summary.kept));
        if self.end >= bytes || (self.end >= kept && kept < MAX_OUTPUT_BYTES) {
            return Ok(true);
        }
        if self.end < kept {
            return Ok(ended.elapsed() > LATE_OUTPUT_TIMEOUT);
        }
        // Output beyond the kept part may still be in flight; the device sends a marker after the
        // last of it.
        let marker = format!("{}/{}", self.folder, key::ENDED);
        let found = self.state.blobs.get(&marker).await.map_err(|error| error_chain(&error))?;
        Ok(found.is_some() || self.read_at.elapsed() > LATE_OUTPUT_TIMEOUT)
    }

    /// Waits until something may have changed. Returns whether it may be the output.
    async fn wait(&mut self) -> bool {
        let notified = async {
            match &mut self.notifications {
                Some(notified) => drop(notified.next().await),
                None => std::future::pending().await,
            }
        };
        let looked = self.checked_at;
        let moved = async {
            if self.progress.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep_until(looked + MIN_CHECK_INTERVAL).await;
        };
        tokio::select! {
            () = notified => true,
            () = moved => false,
            () = tokio::time::sleep_until(self.listed_at + LIST_INTERVAL) => true,
            () = self.state.stop.cancelled() => false,
        }
    }
}
