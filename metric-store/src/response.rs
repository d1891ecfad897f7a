//! Bodies and errors of a store's HTTP responses.

use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode};

use crate::error::StoreError;
use crate::version::Version;

/// Maximum size of a response to anything but a query, in bytes: enough to identify the lines that
/// a store refuses.
const MAX_RESPONSE_BYTES: usize = 256 * 1024;

/// Reads the body up to the maximum size.
pub(crate) async fn read_text(mut response: Response) -> String {
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
pub(crate) fn store_message(body: &str) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(body).ok();
    json.as_ref()
        .and_then(|json| json["error"].as_str().or_else(|| json["message"].as_str()))
        .unwrap_or(body)
        .trim()
        .to_owned()
}

/// The version in the headers of a response.
pub(crate) fn version_header(headers: &HeaderMap) -> Option<Version> {
    headers.get("x-influxdb-version").and_then(|value| value.to_str().ok()).and_then(Version::parse)
}

/// The error that a status other than a success means.
pub(crate) fn status_error(store: &str, status: StatusCode, message: String) -> StoreError {
    let store = store.to_owned();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            StoreError::Denied { store, status, message }
        }
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            StoreError::Unavailable { store, status, message }
        }
        _ => StoreError::Refused { store, message },
    }
}
