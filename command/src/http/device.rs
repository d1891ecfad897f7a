//! Routes of devices over HTTPS, without a bearer token: a request is authenticated by the device's
//! signature.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use muster_api::body::AgentJson;
use muster_api::params::NoParams;
use muster_api::problem::OpenProblems;
use muster_api::{Problem, Query};
use muster_api_types::problems::ProblemDocument;
use muster_api_types::schema;
use muster_schemas::wire::{
    CredentialsRequest, CredentialsResponse, EnrollRequest, NonceRequest, NonceResponse,
};

use super::state::CommandState;
use crate::service::EnrollOutcome;

/// Enroll a device
///
/// For agents. The request is a COSE_Sign1 message by the device's new signing key; see
/// docs/protocol.md for its format. The same keys and nonce return the same device again.
///
/// If the token requires approval, or a device with the same machine id exists, the enrollment is
/// pending until an operator decides: the response is 202, and the same request returns the
/// decision when it is sent again.
#[utoipa::path(
    post, path = "/api/v1/device/enroll", tag = "device", security(()),
    request_body(content = schema::EnrollRequest, example = json!({"request": "0oRDoQEn…", "nats_proof": "c2ln…"})),
    responses(
        (status = 201, description = "The device is enrolled", body = schema::EnrollResponse, example = json!({
            "project": "default", "device": "0198c0de-7000-7abc-8def-0123456789ab", "name": "robot-7",
            "epoch": 1, "operation_key": "pAEBIAYhWCA…",
            "credentials": {"jwt": "eyJ0eXAiOiJKV1Qi…", "expires_at": "2026-11-23T09:00:00Z",
                "servers": ["tls://0.0.0.0:4222"], "server_time": "2026-11-23T08:00:00Z"}
        })),
        (status = 202, description = "The enrollment is pending; repeat the request", body = schema::EnrollWaiting, example = json!({
            "project": "default", "device": "0198c0de-7000-7abc-8def-0123456789ab", "name": "robot-7-2",
            "retry_after": 5
        })),
        (status = 401, description = "A signature or proof is invalid", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "The token is invalid, or an operator rejected the enrollment", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The device or project does not exist", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The name is in use", body = ProblemDocument, content_type = "application/problem+json"),
        OpenProblems,
    ),
)]
pub(super) async fn enroll_device(
    State(state): State<CommandState>,
    Query(NoParams {}): Query<NoParams>,
    AgentJson(body): AgentJson<EnrollRequest>,
) -> Result<Response, Problem> {
    Ok(match state.service.enrollments.enroll(&body).await? {
        EnrollOutcome::Enrolled(joined) => {
            (StatusCode::CREATED, axum::Json(joined)).into_response()
        }
        EnrollOutcome::Pending(waits) => (StatusCode::ACCEPTED, axum::Json(waits)).into_response(),
    })
}

/// Get a nonce to sign
///
/// For agents. A nonce proves that a signed request is recent.
#[utoipa::path(
    post, path = "/api/v1/device/nonce", tag = "device", security(()),
    request_body(content = schema::NonceRequest, example = json!({"project": "default", "device": "0198c0de-7000-7abc-8def-0123456789ab"})),
    responses(
        (status = 200, description = "The nonce", body = schema::NonceResponse, example = json!({"nonce": "AAZh…", "server_time": "2026-11-23T08:00:00Z"})),
        OpenProblems,
    ),
)]
pub(super) async fn create_nonce(
    State(state): State<CommandState>,
    Query(NoParams {}): Query<NoParams>,
    AgentJson(body): AgentJson<NonceRequest>,
) -> Result<axum::Json<NonceResponse>, Problem> {
    Ok(axum::Json(state.service.credentials.nonce(&body.project, body.device)))
}

/// Get new broker credentials
///
/// For agents whose credentials are missing or have expired, however long ago.
#[utoipa::path(
    post, path = "/api/v1/device/credentials", tag = "device", security(()),
    request_body(content = schema::CredentialsRequest, example = json!({"request": "0oRDoQEn…"})),
    responses(
        (status = 200, description = "The credentials", body = schema::CredentialsResponse, example = json!({
            "jwt": "eyJ0eXAiOiJKV1Qi…", "expires_at": "2026-11-23T09:00:00Z",
            "servers": ["tls://0.0.0.0:4222"], "server_time": "2026-11-23T08:00:00Z"
        })),
        (status = 401, description = "The proof is invalid, or the device was deleted", body = ProblemDocument, content_type = "application/problem+json"),
        OpenProblems,
    ),
)]
pub(super) async fn renew_credentials(
    State(state): State<CommandState>,
    Query(NoParams {}): Query<NoParams>,
    AgentJson(body): AgentJson<CredentialsRequest>,
) -> Result<axum::Json<CredentialsResponse>, Problem> {
    Ok(axum::Json(state.service.credentials.renew(&body).await?))
}
