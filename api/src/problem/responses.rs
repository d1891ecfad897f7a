//! The problems in the OpenAPI document: sets that operations name instead of repeating them.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::IntoResponses;
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, Type,
};

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

/// Headers of a request that exceeds a limit.
const RATE_LIMIT_HEADERS: [(&str, &str); 3] = [
    ("RateLimit", "What is left of the limit, and the seconds until more is"),
    ("RateLimit-Policy", "The limit: its quota, and the seconds for which it applies"),
    ("Retry-After", "Seconds after which the client may retry"),
];

fn responses(kinds: &[(Kind, &str)]) -> BTreeMap<String, RefOr<Response>> {
    kinds
        .iter()
        .map(|(kind, description)| {
            let schema = Ref::from_schema_name("Problem");
            let mut response = ResponseBuilder::new()
                .description(*description)
                .content(MEDIA_TYPE, ContentBuilder::new().schema(Some(schema)).build());
            if kind.status() == StatusCode::TOO_MANY_REQUESTS {
                for (name, description) in RATE_LIMIT_HEADERS {
                    let text = ObjectBuilder::new().schema_type(Type::String);
                    let header =
                        HeaderBuilder::new().schema(Some(text)).description(Some(description));
                    response = response.header(name, header.build());
                }
            }
            let response = response.build();
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
