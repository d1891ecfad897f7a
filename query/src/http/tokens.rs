//! `GET /enrollment-tokens`, `GET /enrollment-tokens/{token}` and `GET /tokens`. The responses
//! never include a secret or its hash.

use std::time::SystemTime;

use axum::extract::State;
use muster_api::auth::{ReadAll, ReadEnrollmentTokens};
use muster_api::params::{NoParams, ProjectParam};
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Cursor, Json, Limit, MinPosition, PathParam, Problem, Query, Scope};
use muster_api_types::tokens::{ApiToken, EnrollmentToken, TokenStatus};
use muster_api_types::{Page, schema};
use muster_schemas::{ProjectId, Timestamp, TokenId};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::examples;
use crate::projections::as_i64;
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
#[utoipa::path(
    get, path = "/api/v1/enrollment-tokens", tag = "tokens", security(("bearer" = [])),
    params(ListTokens, ProjectParam, MinPositionParam),
    responses(
        (status = 200, description = "A page of tokens", body = Page<EnrollmentToken>,
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
    let items = tokens.into_iter().filter_map(enrollment).collect();
    Ok(Json(Page { items, next }))
}

/// Get an enrollment token
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
) -> Result<Json<EnrollmentToken>, Problem> {
    min_position.wait(state.log(), &state.read_models.tokens, &scope.project).await?;
    let sql = format!(
        "SELECT state FROM {TABLE} WHERE project = $1 AND kind = 'enrollment' AND token = $2"
    );
    let found: Option<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(scope.project.as_str())
        .bind(token.0)
        .fetch_optional(state.sql())
        .await
        .map_err(sql_problem)?;
    let found: Option<Token> = found
        .map(|text| serde_json::from_str(&text).map_err(|error| Problem::internal(&error)))
        .transpose()?;
    found.and_then(|state| enrollment((token, state))).map(Json).ok_or_else(|| {
        Problem::not_found(format!(
            "there is no enrollment token {token} in project {}",
            scope.project
        ))
    })
}

/// List API tokens, the newest first
#[utoipa::path(
    get, path = "/api/v1/tokens", tag = "tokens", security(("bearer" = [])),
    params(ListTokens, ProjectParam, MinPositionParam),
    responses(
        (status = 200, description = "A page of tokens", body = Page<ApiToken>,
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

/// Reads a page of the table; the cursor is the position at which a token was created.
async fn read(
    state: &QueryState,
    project: &ProjectId,
    kind: &'static str,
    query: &ListTokens,
) -> Result<(Vec<(TokenId, Token)>, Option<String>), Problem> {
    let before = Cursor::decode::<u64>(query.cursor.as_deref())?.unwrap_or(u64::MAX);
    let limit = usize::from(query.limit.get());
    let sql = format!(
        "SELECT token, state FROM {TABLE}
         WHERE project = $1 AND kind = $2 AND created_position < $3
         ORDER BY created_position DESC LIMIT $4"
    );
    let rows: Vec<(Uuid, String)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(project.as_str())
        .bind(kind)
        .bind(as_i64(before))
        .bind(i64::try_from(limit + 1).unwrap_or(i64::MAX))
        .fetch_all(state.sql())
        .await
        .map_err(sql_problem)?;
    let more = rows.len() > limit;
    let mut tokens = Vec::with_capacity(limit);
    for (id, text) in rows.into_iter().take(limit) {
        let token: Token =
            serde_json::from_str(&text).map_err(|error| Problem::internal(&error))?;
        tokens.push((TokenId(id), token));
    }
    let last = tokens.last().filter(|_| more);
    let next = last.map(|(_, token)| Cursor::encode(&token.created_position));
    Ok((tokens, next))
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
    let Some(TokenKind::Enrollment { uses, labels, device }) = token.kind.clone() else {
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
        uses,
        used: token.used,
        last_used_at: token.last_used_at,
        labels,
        device,
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
        last_address: token.last_address,
        version: token.version,
    })
}
