//! `GET /dead-letters`: messages that could not be attributed to a device or written, with the
//! cause. The command role retries them.

use axum::extract::State;
use data_encoding::BASE64;
use muster_api::auth::ReadAll;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::problem::ReadProblems;
use muster_api::{Cursor, Json, Limit, PathParam, Problem, Query, Scope};
use muster_api_types::dead_letters::DeadLetter;
use muster_api_types::{DeadLetterPage, Page};
use serde::Deserialize;
use utoipa::IntoParams;

use super::examples;
use crate::state::QueryState;

fn view(dead_letter: muster_eventlog::DeadLetter, with_bytes: bool) -> DeadLetter {
    DeadLetter {
        id: dead_letter.id,
        source: dead_letter.source,
        project: dead_letter.project,
        subject: dead_letter.subject,
        cause: dead_letter.cause,
        detail: dead_letter.detail,
        size_bytes: dead_letter.size,
        first_seen_at: dead_letter.first_seen,
        last_seen_at: dead_letter.last_seen,
        seen_count: dead_letter.seen,
        retried_at: dead_letter.retried_at,
        content_base64: with_bytes.then(|| BASE64.encode(&dead_letter.bytes)),
    }
}

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListDeadLetters {
    /// Maximum number of items in a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// The `next` of the previous page.
    cursor: Option<String>,
    /// Include all projects, and messages without a project; for server-wide tokens.
    #[serde(default)]
    #[param(value_type = Option<bool>, default = false)]
    everywhere: bool,
}

/// List dead letters, the newest first
///
/// Messages of devices that the server could not attribute or write, with the cause; their bytes
/// are in the response for a single one. Requires the role of an admin or auditor.
#[utoipa::path(
    get, path = "/api/v1/dead-letters", tag = "server", security(("bearer" = [])),
    params(ListDeadLetters, ProjectParam),
    responses(
        (status = 200, description = "A page of dead letters", body = DeadLetterPage,
            example = json!({"items": [examples::dead_letter()]})),
        ReadProblems,
    )
)]
pub(crate) async fn list_dead_letters(
    State(state): State<QueryState>,
    scope: Scope<ReadAll>,
    Query(query): Query<ListDeadLetters>,
) -> Result<Json<Page<DeadLetter>>, Problem> {
    if query.everywhere {
        scope.principal.require_server_wide()?;
    }
    let before = Cursor::decode::<i64>(query.cursor.as_deref())?.unwrap_or(i64::MAX);
    let limit = query.limit.get();
    let project = (!query.everywhere).then_some(scope.project.as_str());
    let found = state.log().list_dead_letters(project, before, u32::from(limit) + 1).await?;
    let more = found.len() > usize::from(limit);
    let items: Vec<DeadLetter> =
        found.into_iter().take(limit.into()).map(|dead_letter| view(dead_letter, false)).collect();
    let next = items.last().filter(|_| more).map(|dead_letter| Cursor::encode(&dead_letter.id));
    Ok(Json(Page { items, next }))
}

/// Get a dead letter with its bytes
///
/// `content_base64` has the first 64 KiB of the message; `size_bytes` is the size of the whole
/// message.
#[utoipa::path(
    get, path = "/api/v1/dead-letters/{id}", tag = "server", security(("bearer" = [])),
    params(("id" = i64, Path, description = "The dead letter's number", example = 7), ProjectParam),
    responses(
        (status = 200, description = "The dead letter", body = DeadLetter,
            example = json!(examples::dead_letter())),
        ReadProblems,
    )
)]
pub(crate) async fn get_dead_letter(
    State(state): State<QueryState>,
    scope: Scope<ReadAll>,
    PathParam(id): PathParam<i64>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Json<DeadLetter>, Problem> {
    let server_wide = scope.principal.project.is_none();
    let dead_letter = state.log().dead_letter(id).await?;
    dead_letter
        .filter(|dead_letter| {
            server_wide || dead_letter.project.as_deref() == Some(scope.project.as_str())
        })
        .map(|dead_letter| Json(view(dead_letter, true)))
        .ok_or_else(|| Problem::not_found(format!("there is no dead letter {id}")))
}
