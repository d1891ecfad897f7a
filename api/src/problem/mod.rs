//! Problem documents (RFC 9457): every error that a client can receive, and all HTTP error codes.
//!
//! Nothing else in muster chooses an error's status. Internal causes are not sent to the client: it
//! gets a correlation id, and the server's log has the details.

mod from;
mod responses;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use muster_api_types::problems::{FieldError, ProblemDocument};
use muster_schemas::errors::error_chain;
use uuid::Uuid;

pub use responses::{OpenProblems, ReadProblems, WriteProblems};

/// Media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// The kinds of problems; each has a stable `type`, a title and a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A field, parameter or header breaks a rule.
    Validation,
    /// The token is missing or invalid.
    Unauthorized,
    /// The token's role or project does not allow the request.
    Forbidden,
    /// The resource does not exist.
    NotFound,
    /// The path exists, but does not support the method.
    MethodNotAllowed,
    /// The request conflicts with the current state.
    Conflict,
    /// The device is not connected.
    DeviceOffline,
    /// The device has not enrolled, or waits to be accepted.
    DeviceNotEnrolled,
    /// The device's keys are revoked.
    DeviceRevoked,
    /// The resource existed and was deleted.
    Gone,
    /// `If-Match` does not match the current version, or `Muster-Min-Position` is a position that
    /// the log does not have.
    PreconditionFailed,
    /// The body is too large.
    TooLarge,
    /// The body is not JSON.
    UnsupportedMediaType,
    /// The response would be too large.
    TooMuch,
    /// The `Idempotency-Key` was used for a request with another body.
    IdempotencyKeyReused,
    /// Too many requests.
    TooManyRequests,
    /// The token has too many open live streams.
    TooManyStreams,
    /// The server failed.
    Internal,
    /// The disk of the database or of the blob store is full.
    StorageFull,
    /// A service that the server needs is unavailable; a retry may succeed.
    Unavailable,
    /// A wait timed out; a retry may succeed.
    NotYet,
}

impl Kind {
    /// Returns the last part of `type`, the title, and the status.
    const fn parts(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::Validation => ("validation", "Validation failed", StatusCode::BAD_REQUEST),
            Self::Unauthorized => ("unauthorized", "Unauthorized", StatusCode::UNAUTHORIZED),
            Self::Forbidden => ("forbidden", "Forbidden", StatusCode::FORBIDDEN),
            Self::NotFound => ("not-found", "Not found", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => {
                ("method-not-allowed", "Method not allowed", StatusCode::METHOD_NOT_ALLOWED)
            }
            Self::Conflict => ("conflict", "Conflict", StatusCode::CONFLICT),
            Self::DeviceOffline => {
                ("device-offline", "The device is offline", StatusCode::CONFLICT)
            }
            Self::DeviceNotEnrolled => {
                ("device-not-enrolled", "The device is not enrolled", StatusCode::CONFLICT)
            }
            Self::DeviceRevoked => {
                ("device-revoked", "The device is revoked", StatusCode::CONFLICT)
            }
            Self::Gone => ("gone", "Gone", StatusCode::GONE),
            Self::PreconditionFailed => {
                ("precondition-failed", "Precondition failed", StatusCode::PRECONDITION_FAILED)
            }
            Self::TooLarge => ("too-large", "Content too large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                "Unsupported media type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ),
            Self::TooMuch => ("too-much", "Response too large", StatusCode::UNPROCESSABLE_ENTITY),
            Self::IdempotencyKeyReused => (
                "idempotency-key-reused",
                "Idempotency key reused",
                StatusCode::UNPROCESSABLE_ENTITY,
            ),
            Self::TooManyRequests => {
                ("too-many-requests", "Too many requests", StatusCode::TOO_MANY_REQUESTS)
            }
            Self::TooManyStreams => {
                ("too-many-streams", "Too many live streams", StatusCode::TOO_MANY_REQUESTS)
            }
            Self::Internal => {
                ("internal", "Internal server error", StatusCode::INTERNAL_SERVER_ERROR)
            }
            Self::StorageFull => {
                ("storage-full", "Insufficient storage", StatusCode::INSUFFICIENT_STORAGE)
            }
            Self::Unavailable => {
                ("unavailable", "Service unavailable", StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::NotYet => ("not-yet", "Gateway timeout", StatusCode::GATEWAY_TIMEOUT),
        }
    }

    /// Returns the status of the response.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.parts().2
    }
}

/// An error for the client.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<FieldError>,
    correlation: Option<Uuid>,
    retry_after: Option<u32>,
}

impl Problem {
    /// Creates a problem; `detail` names the attempted action, its object and a suggested fix.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            correlation: None,
            retry_after: None,
        }
    }

    /// Creates the problem of one field, parameter or header that breaks a rule.
    #[must_use]
    pub fn field(
        field: impl Into<String>,
        rule: impl Into<String>,
        value: Option<serde_json::Value>,
    ) -> Self {
        Self::fields(vec![FieldError {
            field: field.into(),
            rule: rule.into(),
            value: value.map(shorten),
        }])
    }

    /// Creates the problem of several fields, parameters or headers that break rules.
    #[must_use]
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let messages: Vec<String> =
            errors.iter().map(|error| format!("{}: {}", error.field, error.rule)).collect();
        Self { errors, ..Self::new(Kind::Validation, messages.join("; ")) }
    }

    /// Creates the problem of a resource that does not exist.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, detail)
    }

    /// Creates the problem of a request that conflicts with the current state.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, detail)
    }

    /// Creates the problem of a service that is unavailable, with a retry after some seconds.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>, retry_after: u32) -> Self {
        Self::new(Kind::Unavailable, detail).retry_after(retry_after)
    }

    /// Creates the problem of a failure in the server: logs the error with its sources, once, and
    /// gives the client only the correlation id.
    #[must_use]
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let correlation = Uuid::now_v7();
        tracing::error!(%correlation, error = %error_chain(error), "a request failed");
        Self {
            correlation: Some(correlation),
            ..Self::new(
                Kind::Internal,
                format!("internal error; see the server's log for {correlation}"),
            )
        }
    }

    /// Returns the seconds after which a client may retry.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Returns the message.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the document.
    #[must_use]
    pub fn document(&self) -> ProblemDocument {
        let (name, title, status) = self.kind.parts();
        ProblemDocument {
            kind: format!("/problems/{name}"),
            title: title.into(),
            status: status.as_u16(),
            detail: self.detail.clone(),
            errors: self.errors.clone(),
            correlation: self.correlation,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = self.document();
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (self.kind.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.kind == Kind::Unauthorized {
            let challenge = HeaderValue::from_static("Bearer realm=\"muster\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Shortens a value that is returned to its sender.
pub(crate) fn shorten(value: serde_json::Value) -> serde_json::Value {
    const MAX_CHARS: usize = 200;
    let text = match &value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(_) | serde_json::Value::Object(_) => value.to_string(),
        _ => return value,
    };
    if text.chars().count() <= MAX_CHARS {
        return value;
    }
    let cut: String = text.chars().take(MAX_CHARS).collect();
    serde_json::Value::String(format!("{cut}…"))
}
