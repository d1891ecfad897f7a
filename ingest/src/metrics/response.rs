//! The meaning of a metric store's HTTP responses.
//!
//! Sends nothing, and does not decide how to react to a response.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};

use super::store_settings::Api;

/// Maximum size of a response, in bytes: enough to identify the lines that a store refuses.
const MAX_RESPONSE_BYTES: usize = 256 * 1024;

/// The version that a store reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The major version: 1, 2 or 3.
    pub major: u32,
    /// The version as the store reports it.
    pub text: String,
}

/// The result of one write request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteResponse {
    /// All lines are in the store.
    Written,
    /// The body is larger than the store's limit (413).
    TooLarge(String),
    /// The store refuses some or all of the lines because of their content (400, 422).
    Refused(String),
    /// The store requests a retry later (429, 503).
    Busy {
        /// The delay, if the store specifies one.
        after: Option<Duration>,
        /// The store's message.
        message: String,
    },
    /// The store is unreachable, exceeds the timeout, or fails (5xx).
    Unavailable(String),
    /// The database (v1) or bucket (v2) does not exist; the store has an API to create it.
    DatabaseMissing(String),
    /// The store denies the write: credentials, organization, bucket or path are wrong.
    Misconfigured(String),
}

/// Interprets a status and its body, by InfluxDB's API reference and the actual behavior of 1.6.
pub(super) async fn classify_response(api: Api, response: Response) -> WriteResponse {
    let status = response.status();
    if status.is_success() {
        return WriteResponse::Written;
    }
    let after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        // No known store sends the other form, a date: the backoff is used for it.
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    let message = store_message(&read_text(response).await);
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => WriteResponse::TooLarge(message),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY
            if is_settings_error(&message) =>
        {
            WriteResponse::Misconfigured(format!("{status}: {message}"))
        }
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            WriteResponse::Refused(message)
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            WriteResponse::Busy { after, message }
        }
        StatusCode::NOT_FOUND if is_database_missing(api, &message) => {
            WriteResponse::DatabaseMissing(message)
        }
        _ if status.is_server_error() => WriteResponse::Unavailable(format!("{status}: {message}")),
        _ => WriteResponse::Misconfigured(format!("{status}: {message}")),
    }
}

/// Whether the database (1.x: `database not found: "x"`) or bucket (2.x: `bucket "x" not found`) is
/// missing. A missing organization is not created.
fn is_database_missing(api: Api, message: &str) -> bool {
    match api {
        Api::V1 => message.contains("database not found"),
        _ => message.contains("bucket") && message.contains("not found"),
    }
}

/// Whether a 400 is caused by the settings and not by a line.
fn is_settings_error(message: &str) -> bool {
    let text = message.to_ascii_lowercase();
    ["database is required", "authorization", "unauthorized", "please provide either org"]
        .iter()
        .any(|sign| text.starts_with(sign))
}

pub(super) async fn read_text(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_RESPONSE_BYTES - bytes.len())]);
        if bytes.len() == MAX_RESPONSE_BYTES {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The store's message: `{"error": …}` (v1) or `{"message": …}` (v2), otherwise the whole body.
pub(super) fn store_message(body: &str) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(body).ok();
    json.as_ref()
        .and_then(|json| json["error"].as_str().or_else(|| json["message"].as_str()))
        .unwrap_or(body)
        .trim()
        .to_owned()
}

pub(super) fn parse_version(text: &str) -> Option<Version> {
    let major = text.trim().trim_start_matches('v').split('.').next()?.parse().ok()?;
    Some(Version { major, text: text.trim().to_owned() })
}
