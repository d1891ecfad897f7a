//! The problems in the OpenAPI document: sets that operations name instead of repeating them.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

use super::{Kind, MEDIA_TYPE};

/// Problems of a read that requires a token.
#[derive(Clone, Copy, Debug)]
pub struct ReadProblems;

/// Problems of a write that requires a token.
#[derive(Clone, Copy, Debug)]
pub struct WriteProblems;

/// Problems of an operation without a token.
#[derive(Clone, Copy, Debug)]
pub struct OpenProblems;

fn responses(kinds: &[(Kind, &str)]) -> BTreeMap<String, RefOr<Response>> {
    kinds
        .iter()
        .map(|(kind, description)| {
            let schema = Ref::from_schema_name("Problem");
            let response = ResponseBuilder::new()
                .description(*description)
                .content(MEDIA_TYPE, ContentBuilder::new().schema(Some(schema)).build())
                .build();
            (kind.status().as_str().to_owned(), RefOr::T(response))
        })
        .collect()
}

const BAD_REQUEST: (Kind, &str) =
    (Kind::Validation, "A parameter, header or field breaks a rule; `errors` names it");
const UNAUTHORIZED: (Kind, &str) = (Kind::Unauthorized, "The token is missing or invalid");
const FORBIDDEN: (Kind, &str) =
    (Kind::Forbidden, "The token's role or project does not allow this");
const NOT_FOUND: (Kind, &str) = (Kind::NotFound, "The resource does not exist");
const INTERNAL: (Kind, &str) = (Kind::Internal, "The server failed");
const UNAVAILABLE: (Kind, &str) =
    (Kind::Unavailable, "A required service is unavailable; retry after the time in `Retry-After`");
const TOO_MANY: (Kind, &str) =
    (Kind::TooManyStreams, "The token has too many live streams or downloads open");
const NOT_YET: (Kind, &str) =
    (Kind::NotYet, "The read model did not reach `Muster-Min-Position` in time");

const URI_TOO_LONG: (Kind, &str) = (Kind::UriTooLong, "The path with its query is too long");
const HEADERS_TOO_LARGE: (Kind, &str) = (Kind::HeadersTooLarge, "The headers are too large");
const TOO_MANY_REQUESTS: (Kind, &str) =
    (Kind::TooManyRequests, "The client sends too many requests; retry after `Retry-After`");

impl IntoResponses for ReadProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[
            BAD_REQUEST,
            UNAUTHORIZED,
            FORBIDDEN,
            NOT_FOUND,
            URI_TOO_LONG,
            HEADERS_TOO_LARGE,
            INTERNAL,
            (Kind::PositionNotInLog, "`Muster-Min-Position` is beyond the end of the log"),
            TOO_MANY,
            UNAVAILABLE,
            NOT_YET,
        ])
    }
}

impl IntoResponses for WriteProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[
            BAD_REQUEST,
            UNAUTHORIZED,
            FORBIDDEN,
            NOT_FOUND,
            (Kind::Conflict, "The request conflicts with the current state"),
            (Kind::Gone, "The resource was deleted"),
            (Kind::PreconditionFailed, "`If-Match` does not match the current version"),
            (Kind::TooLarge, "The body is too large"),
            (Kind::UnsupportedMediaType, "The body is not `application/json`"),
            (Kind::IdempotencyKeyReused, "The `Idempotency-Key` was used with another body"),
            URI_TOO_LONG,
            HEADERS_TOO_LARGE,
            TOO_MANY_REQUESTS,
            INTERNAL,
            UNAVAILABLE,
            (Kind::StorageFull, "The disk of the database or the blob store is full"),
        ])
    }
}

impl IntoResponses for OpenProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[
            BAD_REQUEST,
            (Kind::TooLarge, "The body is too large"),
            (Kind::UnsupportedMediaType, "The body is not `application/json`"),
            INTERNAL,
            UNAVAILABLE,
        ])
    }
}
