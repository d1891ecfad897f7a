//! Problem documents (RFC 9457): every error that a client can receive, and all HTTP error codes.
//!
//! Nothing else in muster chooses an error's status. Internal causes are not sent to the client: it
//! gets a correlation id, and the server's log has the details.

mod from;
mod kind;
mod rate_limit;
mod responses;

use std::fmt;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use muster_api_types::devices::DeviceRef;
use muster_api_types::problems::{FieldError, ProblemDocument};
use muster_schemas::DeviceId;
use muster_schemas::errors::error_chain;
use serde_json::Value;
use uuid::Uuid;

use crate::pointer::Pointer;

pub use kind::Kind;
pub use rate_limit::RateLimit;
pub use responses::{OpenProblems, ReadProblems, WriteProblems};

/// Media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An error for the client.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<FieldError>,
    correlation: Option<Uuid>,
    /// Boxed, because most problems have none.
    retry: Option<Box<Retry>>,
    device: Option<DeviceRef>,
}

/// When a client may retry.
#[derive(Clone, Copy, Debug)]
struct Retry {
    seconds: u32,
    /// The limit that is exhausted.
    limit: Option<RateLimit>,
}

/// A rule that a part of the request breaks.
#[derive(Clone, Debug)]
pub(crate) struct BrokenRule {
    location: Location,
    rule: String,
    value: Option<Value>,
}

impl BrokenRule {
    pub(crate) fn new(location: Location, rule: impl Into<String>, value: Option<Value>) -> Self {
        Self { location, rule: rule.into(), value: value.map(shorten) }
    }
}

/// A part of a request.
#[derive(Clone, Debug)]
pub(crate) enum Location {
    Body(Pointer),
    Parameter(String),
    Header(String),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(pointer) => f.write_str(&pointer.display_name()),
            Self::Parameter(name) | Self::Header(name) => f.write_str(name),
        }
    }
}

impl From<BrokenRule> for FieldError {
    fn from(BrokenRule { location, rule, value }: BrokenRule) -> Self {
        let (mut pointer, mut parameter, mut header) = (None, None, None);
        match location {
            Location::Body(at) => pointer = Some(at.to_string()),
            Location::Parameter(name) => parameter = Some(name),
            Location::Header(name) => header = Some(name),
        }
        Self { pointer, parameter, header, rule, value }
    }
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
            retry: None,
            device: None,
        }
    }

    /// Creates the problem of a field of the body that breaks a rule, such as `target.devices`.
    #[must_use]
    pub fn field(field: &str, rule: impl Into<String>, value: Option<Value>) -> Self {
        Self::broken(vec![BrokenRule::new(Location::Body(Pointer::of_field(field)), rule, value)])
    }

    /// Creates the problem of a parameter that breaks a rule.
    #[must_use]
    pub fn parameter(
        name: impl Into<String>,
        rule: impl Into<String>,
        value: Option<Value>,
    ) -> Self {
        Self::broken(vec![BrokenRule::new(Location::Parameter(name.into()), rule, value)])
    }

    /// Creates the problem of a header that breaks a rule.
    #[must_use]
    pub fn header(name: impl Into<String>, rule: impl Into<String>, value: Option<Value>) -> Self {
        Self::broken(vec![BrokenRule::new(Location::Header(name.into()), rule, value)])
    }

    /// Creates the problem of several broken rules.
    #[must_use]
    pub(crate) fn broken(rules: Vec<BrokenRule>) -> Self {
        let messages: Vec<String> =
            rules.iter().map(|broken| format!("{}: {}", broken.location, broken.rule)).collect();
        let errors = rules.into_iter().map(Into::into).collect();
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

    /// Names the limit that is exhausted, for the headers `RateLimit` and `RateLimit-Policy`, and the
    /// seconds after which a client may retry.
    #[must_use]
    pub fn limited_by(mut self, limit: RateLimit, seconds: u32) -> Self {
        self.retry = Some(Box::new(Retry { seconds, limit: Some(limit) }));
        self
    }

    /// Returns the seconds after which a client may retry.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry = Some(Box::new(Retry { seconds, limit: None }));
        self
    }

    /// Names the device that the problem is about.
    #[must_use]
    pub fn about_device(mut self, id: DeviceId, name: Option<String>) -> Self {
        self.device = Some(DeviceRef { id, name });
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
        ProblemDocument {
            kind: self.kind.path(),
            title: self.kind.title().into(),
            status: self.kind.status().as_u16(),
            detail: self.detail.clone(),
            errors: self.errors.clone(),
            device: self.device.clone(),
            correlation: self.correlation,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        if let Some(retry) = self.retry {
            let Retry { seconds, limit } = *retry;
            headers.insert(header::RETRY_AFTER, seconds.into());
            headers.extend(limit.into_iter().flat_map(|limit| limit.headers(seconds)));
        }
        response
    }
}

/// Shortens a value that is returned to its sender.
fn shorten(value: Value) -> Value {
    const MAX_CHARS: usize = 200;
    let text = match &value {
        Value::String(text) => text.clone(),
        Value::Array(_) | Value::Object(_) => value.to_string(),
        _ => return value,
    };
    if text.chars().count() <= MAX_CHARS {
        return value;
    }
    let cut: String = text.chars().take(MAX_CHARS).collect();
    Value::String(format!("{cut}…"))
}
