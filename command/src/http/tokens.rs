//! Routes of tokens. Only the response to a token's creation contains its text.

use std::time::Duration;

use axum::extract::State;
use muster_api::auth::{Administer, Scope, WriteDevices};
use muster_api::idempotency::IdempotencyParam;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::problem::WriteProblems;
use muster_api::{IdempotencyKey, Json, PathParam, Problem, Query};
use muster_api_types::schema;
use muster_api_types::tokens::{
    ApiToken, ApiTokenCreated, CreateEnrollmentToken, CreateToken, EnrollmentToken,
    EnrollmentTokenCreated, TokenCreated,
};
use muster_schemas::{ProjectId, TokenId};

use super::location;
use super::state::CommandState;
use super::write::{Changed, Created, Write, changed, created, request};
use crate::service::{CreatedToken, NewApiToken, NewEnrollmentToken};

/// Maximum lifetime of an enrollment token, in seconds: a year.
const MAX_TTL_SECS: u32 = 365 * 24 * 3600;

/// Create an enrollment token
///
/// The response contains the token's text, which cannot be shown again.
#[utoipa::path(
    post, path = "/api/v1/enrollment-tokens", tag = "tokens",
    params(ProjectParam, IdempotencyParam),
    request_body = CreateEnrollmentToken,
    responses((status = 201, description = "The token, with its text", body = EnrollmentTokenCreated), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn create_enrollment_token(
    State(state): State<CommandState>,
    Write { request, .. }: Write<WriteDevices>,
    Json(body): Json<CreateEnrollmentToken>,
) -> Result<Created<TokenCreated>, Problem> {
    if !(1..=MAX_TTL_SECS).contains(&body.expires_in_seconds) {
        let rule = format!("must be from 1 to {MAX_TTL_SECS}");
        return Err(Problem::field(
            "expires_in_seconds",
            rule,
            Some(body.expires_in_seconds.into()),
        ));
    }
    let expires_at = crate::clock::now() + Duration::from_secs(body.expires_in_seconds.into());
    let new = NewEnrollmentToken {
        name: body.name,
        expires_at,
        uses: body.max_uses,
        labels: body.labels,
        config: body.config,
        allow_labels: body.allowed_labels,
        device: body.device,
        approval: body.approval_required,
    };
    let made = state.service.tokens.create_enrollment_token(&request, new).await?;
    let CreatedToken { text, expires_at, written } = made;
    let token = TokenCreated {
        id: text.id,
        secret: text.to_string(),
        expires_at,
        server_pin: Some(state.service.tokens.server_pin()?),
        result: written.into(),
    };
    Ok(created(written, &location::enrollment_token(&request.project, text.id), token))
}

/// Revoke an enrollment token
///
/// No further device can enroll with the token; enrolled devices stay enrolled.
#[utoipa::path(
    delete, path = "/api/v1/enrollment-tokens/{token}", tag = "tokens",
    params(ProjectParam, ("token" = schema::TokenId, Path, description = "The token's id")),
    responses((status = 200, description = "Revoked", body = EnrollmentToken), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn revoke_enrollment_token(
    State(state): State<CommandState>,
    Write { request, .. }: Write<WriteDevices>,
    PathParam(token): PathParam<TokenId>,
) -> Result<Changed, Problem> {
    let written = state.service.tokens.revoke_enrollment_token(&request, token).await?;
    Ok(changed(written, location::enrollment_token(&request.project, token)))
}

/// Create an API token
///
/// The token is valid for one project, or with `server_wide` for the whole server. Server-wide
/// tokens are listed and revoked with `project=system`. The response contains the token's text,
/// which cannot be shown again.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "tokens",
    params(ProjectParam, IdempotencyParam),
    request_body = CreateToken,
    responses((status = 201, description = "The token, with its text", body = ApiTokenCreated), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn create_token(
    State(state): State<CommandState>,
    scope: Scope<Administer>,
    Query(NoParams {}): Query<NoParams>,
    key: IdempotencyKey,
    Json(body): Json<CreateToken>,
) -> Result<Created<TokenCreated>, Problem> {
    if body.server_wide {
        scope.principal.require_server_wide()?;
    }
    let project = match body.server_wide {
        true => ProjectId::system(),
        false if scope.project.is_system() => {
            let rule = "must not be system: send server_wide: true for a token for all projects";
            return Err(Problem::parameter("project", rule, Some(scope.project.as_str().into())));
        }
        false => scope.project,
    };
    let request = request(&scope.principal, project, &key);
    let expires_at = match body.expires_in_seconds {
        Some(0) => {
            let rule = "must be at least 1";
            return Err(Problem::field("expires_in_seconds", rule, Some(0.into())));
        }
        lifetime => {
            lifetime.map(|seconds| crate::clock::now() + Duration::from_secs(seconds.into()))
        }
    };
    let new = NewApiToken { name: body.name, role: body.role, expires_at };
    let made = state.service.tokens.create_api_token(&request, new).await?;
    let CreatedToken { text, expires_at, written } = made;
    let token = TokenCreated {
        id: text.id,
        secret: text.to_string(),
        expires_at,
        server_pin: None,
        result: written.into(),
    };
    Ok(created(written, &location::api_token(&request.project, text.id), token))
}

/// Revoke an API token
///
/// Further requests with the token are rejected.
#[utoipa::path(
    delete, path = "/api/v1/tokens/{token}", tag = "tokens",
    params(ProjectParam, ("token" = schema::TokenId, Path, description = "The token's id")),
    responses((status = 200, description = "Revoked", body = ApiToken), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn revoke_token(
    State(state): State<CommandState>,
    Write { request, .. }: Write<Administer>,
    PathParam(token): PathParam<TokenId>,
) -> Result<Changed, Problem> {
    let written = state.service.tokens.revoke_api_token(&request, token).await?;
    Ok(changed(written, location::api_token(&request.project, token)))
}
