//! The few requests that a device makes over HTTPS.
//!
//! A client is created for each task: hours pass between two of them, and an idle client costs
//! memory.

use std::sync::Arc;
use std::time::Duration;

use muster_schemas::errors::root_cause;
use reqwest::redirect::Policy;
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::trust::{self, TrustError, Verifier};

/// Timeout of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum size of a response, in bytes.
const MAX_RESPONSE_BYTES: usize = 256 * 1024;

/// The reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The TLS configuration failed.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The server was unreachable or untrusted.
    #[error("failed to reach {url}: {problem}")]
    Unreachable {
        /// URL of the request.
        url: String,
        /// Message with all causes.
        problem: String,
    },
    /// The server refused the request.
    #[error("{url} rejected the request ({status}): {problem}")]
    Refused {
        /// URL of the request.
        url: String,
        /// HTTP status.
        status: u16,
        /// The problem document's `type`, if there was one.
        kind: Option<String>,
        /// Message of the problem document.
        problem: String,
    },
    /// The response is invalid.
    #[error("the response of {url} is not that of a muster server ({problem}); check the URL")]
    InvalidResponse {
        /// URL of the request.
        url: String,
        /// The problem of the response.
        problem: String,
    },
}

impl HttpError {
    /// Whether the server requests a retry later.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        matches!(self, Self::Refused { status: 429 | 503, .. })
    }
}

/// A client that trusts one CA.
#[derive(Debug)]
pub struct Http {
    client: reqwest::Client,
    base: Url,
    verifier: Arc<Verifier>,
}

fn unreachable(url: &Url, error: &dyn std::error::Error) -> HttpError {
    HttpError::Unreachable { url: url.to_string(), problem: root_cause(error) }
}

impl Http {
    /// Creates a client of the server at `base`.
    ///
    /// # Errors
    /// When the TLS configuration fails.
    pub fn new(base: &Url, verifier: Arc<Verifier>) -> Result<Self, HttpError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(trust::client_config(Arc::clone(&verifier))?)
            .https_only(true)
            // Rare requests do not need HTTP/2, and it does not support upgrades.
            .http1_only()
            .redirect(Policy::none())
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(REQUEST_TIMEOUT / 2)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("muster-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| unreachable(base, &error))?;
        Ok(Self { client, base: base.clone(), verifier })
    }

    /// Upgrades the connection to another protocol and returns it.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn upgrade(
        &self,
        path: &str,
        protocol: &'static str,
    ) -> Result<reqwest::Upgraded, HttpError> {
        let mut url = self.base.clone();
        url.set_path(path);
        let result = self
            .client
            .get(url.clone())
            .header("Connection", "upgrade")
            .header("Upgrade", protocol)
            .send()
            .await;
        let response = result.map_err(|error| match self.verifier.refusal() {
            Some(problem) => HttpError::Unreachable { url: url.to_string(), problem },
            None => unreachable(&url, &error),
        })?;
        let status = response.status();
        if status != reqwest::StatusCode::SWITCHING_PROTOCOLS {
            let problem = status.canonical_reason().unwrap_or("no reason given").to_owned();
            let status = status.as_u16();
            return Err(HttpError::Refused { url: url.into(), status, kind: None, problem });
        }
        response.upgrade().await.map_err(|error| unreachable(&url, &error))
    }

    /// Posts JSON to a path and parses the JSON response.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<A, HttpError> {
        let mut url = self.base.clone();
        url.set_path(path);
        let mut response =
            self.client.post(url.clone()).json(body).send().await.map_err(|error| {
                match self.verifier.refusal() {
                    Some(problem) => HttpError::Unreachable { url: url.to_string(), problem },
                    None => unreachable(&url, &error),
                }
            })?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&url, &error))? {
            if bytes.len() + chunk.len() > MAX_RESPONSE_BYTES {
                let problem = format!("it is longer than {MAX_RESPONSE_BYTES} bytes");
                return Err(HttpError::InvalidResponse { url: url.into(), problem });
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| HttpError::InvalidResponse {
                url: url.into(),
                problem: error.to_string(),
            });
        }
        let (kind, problem) = parse_problem(&bytes);
        let problem = problem
            .unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
        Err(HttpError::Refused { url: url.into(), status: status.as_u16(), kind, problem })
    }
}

/// Parses a problem document (RFC 9457): its type, and its title and detail as one sentence.
fn parse_problem(bytes: &[u8]) -> (Option<String>, Option<String>) {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(bytes) else { return (None, None) };
    let text = |name: &str| {
        json.get(name)
            .and_then(serde_json::Value::as_str)
            .map(|text| text.chars().filter(|c| !c.is_control()).take(500).collect::<String>())
    };
    let message = match (text("title"), text("detail")) {
        (Some(title), Some(detail)) => Some(format!("{title}: {detail}")),
        (title, detail) => title.or(detail),
    };
    (text("type"), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_documents_are_parsed_into_a_message() {
        for (body, expected) in [
            (
                r#"{"type":"t","title":"Token used","detail":"ask\nfor another"}"#,
                Some("Token used: askfor another"),
            ),
            (r#"{"title":"Gone"}"#, Some("Gone")),
            (r#"{"detail":7}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(parse_problem(body.as_bytes()).1.as_deref(), expected);
        }
    }
}
