//! `GET /sessions`, `GET /sessions/{id}`, `GET /sessions/{id}/recording`.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use futures::{StreamExt, TryStreamExt, future, stream};
use muster_api::auth::{ReadDevices, ReadOutput};
use muster_api::params::{NoParams, ProjectParam};
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Json, Limit, MinPosition, PathParam, Problem, Query, Scope};
use muster_api_types::devices::DeviceRef;
use muster_api_types::problems::ProblemDocument;
use muster_api_types::sessions::{self, Access, SessionStatus};
use muster_api_types::{Page, SessionPage, schema};
use muster_blobs::{BlobError, Blobs, key};
use muster_schemas::errors::error_chain;
use muster_schemas::wire::output_hash;
use muster_schemas::{DeviceId, ProjectId, SessionId};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::QueryBuilder;
use utoipa::IntoParams;
use uuid::Uuid;

use super::devices::resolve;
use super::keyset::{Keyset, Order};
use crate::projections::devices;
use crate::projections::sessions::{Session, TABLE};
use crate::state::{QueryState, sql_problem};

/// A piece of a recording: the recording, the number of the piece, its hash.
type Piece = (u32, u32, Vec<u8>);

/// Maximum number of concurrent reads of pieces of a recording.
const MAX_CONCURRENT_READS: usize = 8;
/// Size of the salt with which each piece starts, in bytes.
const SALT_BYTES: usize = 16;

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListSessions {
    /// Maximum number of items in a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// The `next` of the previous page.
    cursor: Option<String>,
    /// Only sessions with this status.
    #[param(inline)]
    status: Option<SessionStatus>,
    /// Only sessions on this device: its id or name.
    #[param(example = "robot-7")]
    device: Option<String>,
}

fn example() -> Value {
    json!({
        "id": "0198c0de-7003-7abc-8def-0123456789ab",
        "device": {"id": "0198c0de-7000-7abc-8def-0123456789ab", "name": "robot-7"},
        "status": "open", "access": {"kind": "shell", "user": "robot", "command": null},
        "created_by": "token:0198c0de-7001-7abc-8def-0123456789ab",
        "client_address": "192.0.2.7", "created_at": "2026-11-25T09:00:00Z", "client_count": 1,
        "attachment_count": 2, "recorded": true, "input_recorded": false,
        "recording_bytes": 4096, "ended_at": null, "reason": null, "exit_code": null
    })
}

type Row = (Uuid, Uuid, Option<String>, i64, String);

fn select() -> QueryBuilder<sqlx::Postgres> {
    QueryBuilder::new(format!(
        "SELECT s.session, s.device, d.name, s.created_position, s.state FROM {TABLE} s
         LEFT JOIN {} d ON d.project = s.project AND d.device = s.device WHERE s.project = ",
        devices::TABLE
    ))
}

fn read(text: &str) -> Result<Session, Problem> {
    serde_json::from_str(text).map_err(|error| Problem::internal(&error))
}

fn view((id, device, name, _, text): Row) -> Result<Option<sessions::Session>, Problem> {
    let session = read(&text)?;
    let (client_count, recording_bytes) = (session.attached(), session.recording_bytes);
    let Some(kind) = session.session else { return Ok(None) };
    Ok(Some(sessions::Session {
        id: SessionId(id),
        device: DeviceRef { id: DeviceId(device), name },
        status: session.state.into(),
        access: Access::from(kind).into(),
        created_by: session.actor,
        client_address: session.address,
        created_at: session.opened_at,
        client_count,
        attachment_count: session.attachments,
        recorded: session.recorded,
        input_recorded: session.input_recorded,
        recording_bytes,
        ended_at: session.ended_at,
        reason: session.reason,
        exit_code: session.exit_code,
    }))
}

/// List sessions, the newest first
///
/// Shells, TCP connections and file transfers of devices, open and ended ones.
#[utoipa::path(
    get, path = "/api/v1/sessions", tag = "sessions", security(("bearer" = [])),
    params(ListSessions, ProjectParam, MinPositionParam),
    responses(
        (status = 200, description = "A page of sessions", body = SessionPage,
            example = json!({"items": [example()]})),
        ReadProblems,
    )
)]
pub(crate) async fn list_sessions(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    Query(query): Query<ListSessions>,
) -> Result<Json<Page<sessions::Session>>, Problem> {
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.sessions, project).await?;
    let page =
        Keyset::new("s.created_position", Order::Descending, query.cursor.as_deref(), query.limit)?;
    let mut sql = select();
    sql.push_bind(project.as_str().to_owned());
    if let Some(requested) = query.status {
        sql.push(" AND s.status = ").push_bind(requested.as_str());
    }
    if let Some(device) = &query.device {
        let device = resolve(&state, project, device).await?;
        sql.push(" AND s.device = ").push_bind(device.0);
    }
    let (rows, next) = page.read(&state, sql, |row: &Row| row.3).await?;
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        items.extend(view(row)?);
    }
    Ok(Json(Page { items, next }))
}

/// Returns the problem of blobs that could not be read.
pub(crate) fn blob_problem(error: &BlobError) -> Problem {
    tracing::warn!(error = %error_chain(error), "the blob store failed");
    Problem::unavailable("the blob store is unavailable; see the server's log", 10)
}

async fn find(state: &QueryState, project: &ProjectId, id: SessionId) -> Result<Row, Problem> {
    let mut sql = select();
    sql.push_bind(project.as_str().to_owned());
    sql.push(" AND s.session = ").push_bind(id.0);
    let row: Option<Row> =
        sql.build_query_as().fetch_optional(state.sql()).await.map_err(sql_problem)?;
    row.ok_or_else(|| Problem::not_found(format!("there is no session {id} in project {project}")))
}

/// Lists the pieces of a session's recordings in order: recording, piece, hash.
async fn pieces(
    state: &QueryState,
    project: &ProjectId,
    id: SessionId,
) -> Result<Vec<Piece>, Problem> {
    let mut sql = QueryBuilder::<sqlx::Postgres>::new(format!(
        "SELECT recording, chunk, hash FROM {TABLE}_pieces WHERE project = "
    ));
    sql.push_bind(project.as_str().to_owned()).push(" AND session = ").push_bind(id.0);
    sql.push(" ORDER BY recording, chunk");
    let rows: Vec<(i64, i64, Vec<u8>)> =
        sql.build_query_as().fetch_all(state.sql()).await.map_err(sql_problem)?;
    let number = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(rows.into_iter().map(|row| (number(row.0), number(row.1), row.2)).collect())
}

/// Get a session
///
/// Who opened it from which address, whether it is recorded, and how it ended.
#[utoipa::path(
    get, path = "/api/v1/sessions/{session}", tag = "sessions", security(("bearer" = [])),
    params(
        ("session" = schema::SessionId, Path, description = "The session's id"), ProjectParam,
        MinPositionParam,
    ),
    responses(
        (status = 200, description = "The session", body = sessions::Session, example = json!(example())),
        ReadProblems,
    )
)]
pub(crate) async fn get_session(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    PathParam(id): PathParam<SessionId>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Json<sessions::Session>, Problem> {
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.sessions, project).await?;
    let row = find(&state, project, id).await?;
    let unknown = || Problem::not_found(format!("there is no session {id} in project {project}"));
    view(row)?.map(Json).ok_or_else(unknown)
}

/// Get the recording of a shell
///
/// The recording is asciicast v2 (a line of JSON for each event), and at most 5 s behind the shell. Each piece is verified against
/// its hash in the log, before the response starts and again when it is sent; if a piece is missing
/// or was changed, the response is an error that names it. Each attachment starts a recording of
/// its own, which follows the previous one.
#[utoipa::path(
    get, path = "/api/v1/sessions/{session}/recording", tag = "sessions",
    security(("bearer" = [])),
    params(
        ("session" = schema::SessionId, Path, description = "The session's id"), ProjectParam,
        MinPositionParam,
    ),
    responses(
        (status = 200, description = "The recording", 
            body = inline(schema::Bytes), content_type = "application/octet-stream",
            example = "{\"version\": 2, \"width\": 80, \"height\": 24}\n[0.1, \"o\", \"$ \"]\n"),
        (status = 410, description = "A piece of the recording is missing or was changed",
            body = ProblemDocument, content_type = "application/problem+json"),
        ReadProblems,
    )
)]
pub(crate) async fn get_session_recording(
    State(state): State<QueryState>,
    scope: Scope<ReadOutput>,
    min_position: MinPosition,
    PathParam(id): PathParam<SessionId>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<impl IntoResponse, Problem> {
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.sessions, project).await?;
    find(&state, project, id).await?;
    let slot = Arc::new(state.streams.acquire(&scope.principal)?);
    let pieces = pieces(&state, project, id).await?;
    let (blobs, project) = (state.blobs.clone(), project.clone());
    let read = move |piece: Piece| {
        let (blobs, project, slot) = (blobs.clone(), project.clone(), Arc::clone(&slot));
        async move {
            let lines = lines(&blobs, &project, id, &piece).await;
            drop(slot);
            lines
        }
    };
    let looked = stream::iter(pieces.clone()).map(read.clone()).buffered(MAX_CONCURRENT_READS);
    looked.try_for_each(|_| future::ready(Ok(()))).await?;
    let body =
        stream::iter(pieces).map(read).buffered(MAX_CONCURRENT_READS).map_err(move |problem| {
            tracing::error!(session = %id, %problem, "failed to read a recording completely");
            io::Error::other(problem.detail().to_owned())
        });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(body)))
}

/// Returns the lines of a piece after it was verified against its hash.
async fn lines(
    blobs: &Blobs,
    project: &ProjectId,
    id: SessionId,
    (recording, chunk, hash): &Piece,
) -> Result<Bytes, Problem> {
    let damaged = |what: &str| {
        let location = format!("piece {chunk} of recording {recording}");
        let message = format!("{location} of session {id} {what}: the blob store was modified");
        Problem::new(muster_api::problem::Kind::Gone, message)
    };
    let name = key::recording(project, id, *recording, *chunk);
    let found = blobs.get(&name).await.map_err(|error| blob_problem(&error))?;
    let bytes = found.ok_or_else(|| damaged("is missing"))?;
    let (salt, lines) =
        bytes.split_at_checked(SALT_BYTES).ok_or_else(|| damaged("does not match its hash"))?;
    if output_hash(salt, lines).0 != hash[..] {
        return Err(damaged("does not match its hash"));
    }
    Ok(bytes.slice_ref(lines))
}
