//! What every write has in common: its request, its result and the headers of its response.

use axum::http::HeaderMap;
use muster_api::auth::Principal;
use muster_api::{IdempotencyKey, IfMatch, etag, position_header};
use muster_api_types::WriteResult;
use muster_schemas::ProjectId;

use crate::request::{Request, Written};

impl From<Written> for WriteResult {
    fn from(Written { version, position }: Written) -> Self {
        Self { version, position }
    }
}

/// The headers of the response to a write.
pub(super) fn headers(written: Written) -> HeaderMap {
    HeaderMap::from_iter([etag(written.version), position_header(written.position)])
}

/// The request of a use case, from the parts of an HTTP request.
pub(super) fn request(
    principal: &Principal,
    project: ProjectId,
    key: &IdempotencyKey,
    if_match: &IfMatch,
) -> Request {
    let versions = match if_match {
        IfMatch::Absent | IfMatch::Any => None,
        IfMatch::Versions(versions) => Some(versions.clone()),
    };
    Request {
        project,
        actor: principal.actor(),
        append_id: key.append_id(principal),
        request_hash: key.request_hash(),
        versions,
    }
}
