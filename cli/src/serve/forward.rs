//! The front door's way to a command role in another process: what query has no route for goes
//! there, and so clients see one origin.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use muster_api::Problem;

use super::door::MAX_BODY;

/// Headers that are between two neighbors only (RFC 9110 §7.6.1), or made anew.
const NOT_FORWARDED: [HeaderName; 6] = [
    header::HOST,
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::UPGRADE,
    header::TE,
];

/// The other process.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    http: reqwest::Client,
    url: String,
}

impl Forward {
    pub(super) fn new(url: &str, ca: &Path) -> Result<Self> {
        let pem = std::fs::read(ca).with_context(|| format!("cannot read {}", ca.display()))?;
        let http = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?)
            .connect_timeout(Duration::from_secs(5))
            .build()
            .context("cannot set up HTTPS to the command role")?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned() })
    }

    /// Sends a request on, and its answer back.
    pub(super) async fn send(self, request: Request) -> Response {
        self.try_send(request).await.unwrap_or_else(IntoResponse::into_response)
    }

    async fn try_send(self, request: Request) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, MAX_BODY).await.map_err(|_| {
            let detail = format!("the body is larger than {MAX_BODY} bytes");
            Problem::new(muster_api::problem::Kind::TooLarge, detail)
        })?;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let answer = self
            .http
            .request(parts.method, format!("{}{path}", self.url))
            .headers(kept(&parts.headers))
            .body(body)
            .send()
            .await
            .map_err(|error| {
                tracing::warn!(%error, "the command role is away");
                Problem::unavailable("the command role is away; try again", 2)
            })?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        *response.headers_mut() = kept(answer.headers());
        *response.body_mut() = Body::from_stream(answer.bytes_stream());
        Ok(response)
    }
}

fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for name in NOT_FORWARDED {
        kept.remove(name);
    }
    kept
}
