//! `GET /enrollment-tokens`, `GET /enrollment-tokens/{token}` and `GET /tokens`. The responses
//! never include a secret or its hash.

use std::time::SystemTime;

use axum::extract::State;
use axum::response::IntoResponse;
use muster_api::auth::{ReadAll, ReadEnrollmentTokens};
use muster_api::params::{NoParams, ProjectParam};
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Json, Limit, MinPosition, PathParam, Problem, Query, Scope, etag};
use muster_api_types::devices::DeviceRef;
use muster_api_types::tokens::{ApiToken, EnrollmentToken, TokenStatus};
use muster_api_types::{ApiTokenPage, EnrollmentTokenPage, Page, schema};
use muster_schemas::{ProjectId, Timestamp, TokenId};
use serde::Deserialize;
use sqlx::QueryBuilder;
use utoipa::IntoParams;
use uuid::Uuid;

use super::devices::names::set_names;
use super::examples;
use super::keyset::{Keyset, Order};
use crate::projections::tokens::{TABLE, Token, TokenKind};
use crate::state::{QueryState, sql_problem};

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListTokens {
    /// Maximum number of items in a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// The `next` of the previous page.
    cursor: Option<String>,
}

/// List enrollment tokens, the newest first
///
/// Also tokens that are used up, expired or revoked. The text of a token is never in a response
/// after its creation.
#[utoipa::path(
    get, path = "/api/v1/enrollment-tokens", tag = "tokens", security(("bearer" = [])),
    params(ListTokens, ProjectParam, MinPositionParam),
    responses(
        (status = 200, description = "A page of tokens", body = EnrollmentTokenPage,
            example = json!({"items": [examples::enrollment_token()]})),
        ReadProblems,
    )
)]
pub(crate) async fn list_enrollment_tokens(
    State(state): State<QueryState>,
    scope: Scope<ReadEnrollmentTokens>,
    min_position: MinPosition,
    Query(query): Query<ListTokens>,
) -> Result<Json<Page<EnrollmentToken>>, Problem> {
    min_position.wait(state.log(), &state.read_models.tokens, &scope.project).await?;
    let (tokens, next) = read(&state, &scope.project, "enrollment", &query).await?;
    let mut items: Vec<_> = tokens.into_iter().filter_map(enrollment).collect();
    let devices = items.iter_mut().filter_map(|token| token.device.as_mut()).collect();
    set_names(&state, &scope.project, devices).await?;
    Ok(Json(Page { items, next }))
}

/// Get an enrollment token
///
/// `use_count` is the number of devices that have enrolled with it. The text of the token is only
/// in the response to its creation.
#[utoipa::path(
    get, path = "/api/v1/enrollment-tokens/{token}", tag = "tokens", security(("bearer" = [])),
    params(
        ("token" = schema::TokenId, Path, description = "The token's id"), ProjectParam, MinPositionParam,
    ),
    responses(
        (status = 200, description = "The token", body = EnrollmentToken,
            example = json!(examples::enrollment_token())),
        ReadProblems,
    )
)]
pub(crate) async fn get_enrollment_token(
    State(state): State<QueryState>,
    scope: Scope<ReadEnrollmentTokens>,
    min_position: MinPosition,
    PathParam(token): PathParam<TokenId>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<impl IntoResponse, Problem> {
    min_position.wait(state.log(), &state.read_models.tokens, &scope.project).await?;
    let found = find(&state, &scope.project, "enrollment", token).await?;
    let mut shown = found.and_then(|state| enrollment((token, state))).ok_or_else(|| {
        let project = &scope.project;
        Problem::not_found(format!("there is no enrollment token {token} in project {project}"))
    })?;
    set_names(&state, &scope.project, shown.device.as_mut().into_iter().collect()).await?;
    Ok(([etag(shown.version)], Json(shown)))
}

/// Reads the row of a token.
async fn find(
    state: &QueryState,
    project: &ProjectId,
    kind: &'static str,
    token: TokenId,
) -> Result<Option<Token>, Problem> {
    let sql = format!("SELECT state FROM {TABLE} WHERE project = $1 AND kind = $2 AND token = $3");
    let found: Option<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(project.as_str())
        .bind(kind)
        .bind(token.0)
        .fetch_optional(state.sql())
        .await
        .map_err(sql_problem)?;
    found
        .map(|text| serde_json::from_str(&text).map_err(|error| Problem::internal(&error)))
        .transpose()
}

/// List API tokens, the newest first
///
/// Also tokens that are expired or revoked. The text of a token is never in a response after its
/// creation. Requires the role of an admin or auditor.
#[utoipa::path(
    get, path = "/api/v1/tokens", tag = "tokens", security(("bearer" = [])),
    params(ListTokens, ProjectParam, MinPositionParam),
    responses(
        (status = 200, description = "A page of tokens", body = ApiTokenPage,
            example = json!({"items": [examples::api_token()]})),
        ReadProblems,
    )
)]
pub(crate) async fn list_api_tokens(
    State(state): State<QueryState>,
    scope: Scope<ReadAll>,
    min_position: MinPosition,
    Query(query): Query<ListTokens>,
) -> Result<Json<Page<ApiToken>>, Problem> {
    min_position.wait(state.log(), &state.read_models.tokens, &scope.project).await?;
    let (tokens, next) = read(&state, &scope.project, "api", &query).await?;
    let items = tokens.into_iter().filter_map(api).collect();
    Ok(Json(Page { items, next }))
}

/// Get an API token
///
/// Its text cannot be shown again. Server-wide tokens are in the project `system`.
#[utoipa::path(
    get, path = "/api/v1/tokens/{token}", tag = "tokens", security(("bearer" = [])),
    params(
        ("token" = schema::TokenId, Path, description = "The token's id"), ProjectParam, MinPositionParam,
    ),
    responses(
        (status = 200, description = "The token", body = ApiToken,
            headers(("ETag" = String, description = "Version of its stream")),
            example = json!(examples::api_token())),
        ReadProblems,
    )
)]
pub(crate) async fn get_api_token(
    State(state): State<QueryState>,
    scope: Scope<ReadAll>,
    min_position: MinPosition,
    PathParam(token): PathParam<TokenId>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<impl IntoResponse, Problem> {
    min_position.wait(state.log(), &state.read_models.tokens, &scope.project).await?;
    let found = find(&state, &scope.project, "api", token).await?;
    let shown = found.and_then(|state| api((token, state))).ok_or_else(|| {
        let project = &scope.project;
        Problem::not_found(format!("there is no API token {token} in project {project}"))
    })?;
    Ok(([etag(shown.version)], Json(shown)))
}

/// Reads a page of the table; the cursor is the position at which a token was created.
async fn read(
    state: &QueryState,
    project: &ProjectId,
    kind: &'static str,
    query: &ListTokens,
) -> Result<(Vec<(TokenId, Token)>, Option<String>), Problem> {
    let page =
        Keyset::new("created_position", Order::Descending, query.cursor.as_deref(), query.limit)?;
    let mut sql = QueryBuilder::new(format!(
        "SELECT token, state, created_position FROM {TABLE} WHERE project = "
    ));
    sql.push_bind(project.as_str().to_owned()).push(" AND kind = ").push_bind(kind);
    let (rows, next) = page.read(state, sql, |row: &(Uuid, String, i64)| row.2).await?;
    let read = |(id, text, _): (Uuid, String, i64)| {
        let token = serde_json::from_str(&text).map_err(|error| Problem::internal(&error))?;
        Ok((TokenId(id), token))
    };
    Ok((rows.into_iter().map(read).collect::<Result<_, Problem>>()?, next))
}

fn status(token: &Token, used_up: bool) -> TokenStatus {
    let now = Timestamp::from(SystemTime::now());
    if token.revoked_at.is_some() {
        TokenStatus::Revoked
    } else if used_up {
        TokenStatus::UsedUp
    } else if token.expires_at.is_some_and(|end| end <= now) {
        TokenStatus::Expired
    } else {
        TokenStatus::Active
    }
}

fn enrollment((id, token): (TokenId, Token)) -> Option<EnrollmentToken> {
    let Some(TokenKind::Enrollment {
        uses,
        labels,
        allowed_labels,
        config,
        device,
        approval_required,
    }) = token.kind.clone()
    else {
        return None;
    };
    Some(EnrollmentToken {
        id,
        status: status(&token, token.used >= u64::from(uses)).into(),
        name: token.name,
        created_by: token.created_by,
        created_at: token.created_at,
        expires_at: token.expires_at,
        revoked_at: token.revoked_at,
        max_uses: uses,
        use_count: token.used,
        last_used_at: token.last_used_at,
        labels,
        allowed_labels,
        config,
        device: device.map(|id| DeviceRef { id, name: None }),
        approval_required,
        version: token.version,
    })
}

fn api((id, token): (TokenId, Token)) -> Option<ApiToken> {
    let Some(TokenKind::Api { role }) = token.kind else {
        return None;
    };
    Some(ApiToken {
        id,
        status: status(&token, false).into(),
        name: token.name,
        role: role.into(),
        created_by: token.created_by,
        created_at: token.created_at,
        expires_at: token.expires_at,
        revoked_at: token.revoked_at,
        last_used_at: token.last_used_at,
        last_used_address: token.last_address,
        version: token.version,
    })
}
