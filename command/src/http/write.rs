//! What every write has in common: its request, its result and its response.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use muster_api::auth::{Needs, Principal};
use muster_api::params::NoParams;
use muster_api::position::READ_MODEL;
use muster_api::{IdempotencyKey, IfMatch, Problem, Query, Scope, etag, position_header};
use muster_api_types::WriteResult;
use muster_schemas::{Position, ProjectId, StreamVersion};

use super::location;
use super::state::CommandState;
use crate::request::{Request, Written};

/// A write in a project, by a principal with the permission `P`.
pub(super) struct Write<P> {
    pub(super) request: Request,
    permission: PhantomData<P>,
}

/// As [`Write`], with the versions of the resource that `If-Match` names.
pub(super) struct VersionedWrite<P> {
    pub(super) request: Request,
    permission: PhantomData<P>,
}

impl<P: Needs> FromRequestParts<CommandState> for Write<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &CommandState) -> Result<Self, Problem> {
        let request = read::<P>(parts, state).await?;
        Ok(Self { request, permission: PhantomData })
    }
}

impl<P: Needs> FromRequestParts<CommandState> for VersionedWrite<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &CommandState) -> Result<Self, Problem> {
        let request = read::<P>(parts, state).await?;
        let preconditions = Preconditions::from_request_parts(parts, state).await?;
        Ok(Self { request: preconditions.of(request), permission: PhantomData })
    }
}

/// Authenticates the client; reads the parameters that every write has.
async fn read<P: Needs>(parts: &mut Parts, state: &CommandState) -> Result<Request, Problem> {
    let scope = Scope::<P>::from_request_parts(parts, state).await?;
    let Query(NoParams {}) = Query::from_request_parts(parts, state).await?;
    let key = IdempotencyKey::from_request_parts(parts, state).await?;
    Ok(request(&scope.principal, scope.project, &key))
}

impl From<Written> for WriteResult {
    fn from(Written { version, position }: Written) -> Self {
        Self { version, position }
    }
}

/// A change of the resource at this path.
pub(super) struct Changed {
    written: Written,
    location: String,
    status: StatusCode,
}

/// Returns the response to a write that has changed the resource at this path.
pub(super) const fn changed(written: Written, location: String) -> Changed {
    Changed { written, location, status: StatusCode::OK }
}

/// Returns the response to a write that has created the resource at this path, or replaced it.
pub(super) const fn put(written: Written, location: String, is_new: bool) -> Changed {
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Changed { written, location, status }
}

impl IntoResponse for Changed {
    fn into_response(self) -> Response {
        let body = axum::Json(WriteResult::from(self.written));
        (self.status, headers(self.written, &self.location), body).into_response()
    }
}

/// The response to a write that has created something.
pub(super) type Created<T> = (StatusCode, HeaderMap, axum::Json<T>);

/// Returns the response to a write that has created the resource at this path.
pub(super) fn created<T>(written: Written, location: &str, body: T) -> Created<T> {
    (StatusCode::CREATED, headers(written, location), axum::Json(body))
}

/// The response to a write to many devices.
pub(super) type Bulk<T> = (HeaderMap, axum::Json<T>);

/// Returns the response to a write to many devices of a project, with the position of the newest.
pub(super) fn bulk<T>(project: &ProjectId, position: Option<Position>, body: T) -> Bulk<T> {
    let list = HeaderValue::try_from(location::devices(project)).ok();
    let headers = position.into_iter().flat_map(|position| {
        let list = list.clone().map(|value| (READ_MODEL, value));
        [Some(position_header(position)), list].into_iter().flatten()
    });
    (headers.collect(), axum::Json(body))
}

/// The headers of the response to a write.
fn headers(written: Written, location: &str) -> HeaderMap {
    let location = HeaderValue::try_from(location).ok().map(|value| (header::LOCATION, value));
    let headers = [etag(written.version), position_header(written.position)];
    headers.into_iter().chain(location).collect()
}

/// What `If-Match` and `If-None-Match: *` require of the resource.
pub(super) struct Preconditions {
    versions: Option<Vec<StreamVersion>>,
    exists: Option<bool>,
}

impl<S: Send + Sync> FromRequestParts<S> for Preconditions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let if_match = IfMatch::from_request_parts(parts, state).await?;
        let creates = creates(&parts.method, &parts.headers)?;
        Ok(match if_match {
            IfMatch::Absent => Self { versions: None, exists: creates.then_some(false) },
            IfMatch::Any => Self { versions: None, exists: Some(true) },
            IfMatch::Versions(versions) => Self { versions: Some(versions), exists: Some(true) },
        })
    }
}

/// Whether a `PUT` creates only.
fn creates(method: &Method, headers: &HeaderMap) -> Result<bool, Problem> {
    let Some(value) = headers.get(header::IF_NONE_MATCH).filter(|_| method == Method::PUT) else {
        return Ok(false);
    };
    if value == "*" {
        return Ok(true);
    }
    let text = value.to_str().unwrap_or_default();
    Err(Problem::header("If-None-Match", "must be `*` with a write", Some(text.into())))
}

impl Preconditions {
    /// Adds them to a request.
    pub(super) fn of(self, request: Request) -> Request {
        Request { versions: self.versions, exists: self.exists, ..request }
    }
}

/// The request of a use case, from the parts of an HTTP request.
pub(super) fn request(principal: &Principal, project: ProjectId, key: &IdempotencyKey) -> Request {
    Request {
        project,
        actor: principal.actor(),
        append_id: key.append_id(principal),
        may_be_repeated: key.is_given(),
        request_hash: key.request_hash(),
        versions: None,
        exists: None,
    }
}
