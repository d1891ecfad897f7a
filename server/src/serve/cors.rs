//! Cross-origin requests (CORS): browsers may use the API from pages of the listed origins. Off by
//! default.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use clap::Args;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::request_id::{REQUEST_ID, TRACE_PARENT};

/// Time for which a browser remembers what is allowed.
const MAX_AGE: Duration = Duration::from_secs(3_600);
/// Headers of requests, besides those that browsers always allow.
const REQUEST_HEADERS: [HeaderName; 12] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::RANGE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("muster-min-position"),
    HeaderName::from_static("prefer"),
    REQUEST_ID,
    TRACE_PARENT,
];
/// Headers of responses that pages may read.
const RESPONSE_HEADERS: [HeaderName; 13] = [
    header::ETAG,
    header::LOCATION,
    header::RETRY_AFTER,
    header::ACCEPT_RANGES,
    header::CONTENT_DISPOSITION,
    header::CONTENT_RANGE,
    HeaderName::from_static("muster-position"),
    HeaderName::from_static("muster-degraded"),
    HeaderName::from_static("preference-applied"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    REQUEST_ID,
    TRACE_PARENT,
];

/// Origins whose pages may use the API.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CorsOrigins {
    /// Origins whose pages may use the API from a browser, with commas; none by default
    ///
    /// An origin is a scheme and a host, such as https://dashboard.example.com. `*` allows pages of
    /// all origins; they still need an API token.
    #[arg(
        long = "cors-origins", env = "MUSTER_CORS_ORIGINS", value_delimiter = ',',
        value_name = "ORIGIN", value_parser = origin
    )]
    origins: Vec<HeaderValue>,
}

/// Parses an origin as browsers send it.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let text = text.trim();
    let wrong = || format!("'{text}' is not an origin, such as https://dashboard.example.com");
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_host = |host: &str| {
        !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
    };
    if text != "*" && !host.is_some_and(is_host) {
        return Err(wrong());
    }
    HeaderValue::try_from(text).map_err(|_| wrong())
}

impl CorsOrigins {
    /// Returns the layer that responds to browsers; `None` without origins.
    pub(super) fn layer(&self) -> Option<CorsLayer> {
        if self.origins.is_empty() {
            return None;
        }
        let origins = match self.origins.iter().any(|origin| origin == "*") {
            true => AllowOrigin::any(),
            false => AllowOrigin::list(self.origins.iter().cloned()),
        };
        let methods =
            [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        Some(
            CorsLayer::new()
                .allow_origin(origins)
                .allow_methods(methods)
                .allow_headers(REQUEST_HEADERS)
                .expose_headers(RESPONSE_HEADERS)
                .max_age(MAX_AGE),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for good in ["https://a.example.com", "http://localhost:5173", "https://[::1]:8443", "*"] {
            assert!(origin(good).is_ok(), "{good}");
        }
        for bad in
            ["", "a.example.com", "https://", "https://a.example.com/", "https://A.com", "ftp://a"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
