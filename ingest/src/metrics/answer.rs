//! What a metric store's HTTP answers mean.
//!
//! Sends nothing, and decides nothing about what follows from an answer.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};

use super::client::Api;

/// So much of an answer is read, in bytes: enough to see which lines a store blames.
const MAX_ANSWER: usize = 256 * 1024;

/// What a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The first number of the version: 1, 2 or 3.
    pub major: u32,
    /// The version as the store writes it.
    pub text: String,
}

/// What became of one write request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All lines are in the store.
    Written,
    /// The body is larger than the store takes (413).
    TooLarge(String),
    /// The store refuses some or all of the lines for what they are (400, 422).
    Refused(String),
    /// The store asks to come back later (429, 503).
    Busy {
        /// After this long, when it says so.
        after: Option<Duration>,
        /// Its words.
        words: String,
    },
    /// The store cannot be reached, takes too long, or fails (5xx).
    Unavailable(String),
    /// The database (v1) or bucket (v2) does not exist; the store has an API to create it.
    DatabaseMissing(String),
    /// The store does not let us write: credentials, organization, bucket or path are wrong.
    Misconfigured(String),
}

/// The meaning of a status and its body, by InfluxDB's API reference and as 1.6 really answers.
pub(super) async fn answer_of(api: Api, response: Response) -> Answer {
    let status = response.status();
    if status.is_success() {
        return Answer::Written;
    }
    let after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        // The other form, a date, is not written by any known store: the backoff serves it.
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    let words = words_of(&text_of(response).await);
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => Answer::TooLarge(words),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY if is_about_us(&words) => {
            Answer::Misconfigured(format!("{status}: {words}"))
        }
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Answer::Refused(words),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Answer::Busy { after, words }
        }
        StatusCode::NOT_FOUND if is_database_missing(api, &words) => Answer::DatabaseMissing(words),
        _ if status.is_server_error() => Answer::Unavailable(format!("{status}: {words}")),
        _ => Answer::Misconfigured(format!("{status}: {words}")),
    }
}

/// 1.x: `database not found: "x"`; 2.x: `bucket "x" not found`. An unknown organization is not ours to make.
fn is_database_missing(api: Api, words: &str) -> bool {
    match api {
        Api::V1 => words.contains("database not found"),
        _ => words.contains("bucket") && words.contains("not found"),
    }
}

/// A 400 that no line can be blamed for.
fn is_about_us(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["database is required", "authorization", "unauthorized", "please provide either org"]
        .iter()
        .any(|sign| words.starts_with(sign))
}

pub(super) async fn text_of(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER - bytes.len())]);
        if bytes.len() == MAX_ANSWER {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A store's own words: `{"error": …}` (v1) or `{"message": …}` (v2), else the body as it is.
pub(super) fn words_of(body: &str) -> String {
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

/// An error of the HTTP client with its causes; its own text is only "error sending request".
pub(super) fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
