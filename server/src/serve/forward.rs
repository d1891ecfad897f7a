//! Forwards requests to a command role in another process: requests for which query has no route,
//! so that clients use one origin.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use muster_api::Problem;

use super::body::MAX_BODY_BYTES;
use super::proxies::FORWARDED_FOR;

/// Hop-by-hop headers (RFC 9110 §7.6.1), and headers that are generated again.
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
    /// HTTP client for websockets, which need HTTP/1.1.
    upgrading: reqwest::Client,
    url: String,
}

impl Forward {
    pub(super) fn new(url: &str, ca: &Path) -> Result<Self> {
        let pem = std::fs::read(ca).with_context(|| format!("failed to read {}", ca.display()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)?;
        let builder = || {
            reqwest::Client::builder()
                .tls_certs_only(certificates.clone())
                .connect_timeout(Duration::from_secs(5))
        };
        let wrong = "failed to set up HTTPS to the command role";
        let http = builder().build().context(wrong)?;
        let upgrading = builder().http1_only().build().context(wrong)?;
        Ok(Self { http, upgrading, url: url.trim_end_matches('/').to_owned() })
    }

    /// Forwards a request, and returns its response.
    pub(super) async fn send(self, request: Request) -> Response {
        self.try_send(request).await.unwrap_or_else(IntoResponse::into_response)
    }

    async fn try_send(self, request: Request) -> Result<Response, Problem> {
        if request.headers().contains_key(header::UPGRADE) {
            return self.upgrade(request).await;
        }
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| {
            let detail = format!("the body is larger than {MAX_BODY_BYTES} bytes");
            Problem::new(muster_api::problem::Kind::TooLarge, detail)
        })?;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let upstream = self
            .http
            .request(parts.method.clone(), format!("{}{path}", self.url))
            .headers(forwarded_headers(&parts))
            .body(body)
            .send()
            .await
            .map_err(|error| {
                tracing::warn!(%error, "the command role is unavailable");
                Problem::unavailable("the command role is unavailable; try again", 2)
            })?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = upstream.status();
        *response.headers_mut() = end_to_end_headers(upstream.headers());
        *response.body_mut() = Body::from_stream(upstream.bytes_stream());
        Ok(response)
    }

    /// Forwards a websocket: the bytes after the upgrade are copied unchanged.
    async fn upgrade(self, mut request: Request) -> Result<Response, Problem> {
        let client = hyper::upgrade::on(&mut request);
        let (parts, _) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut headers = forwarded_headers(&parts);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        for name in [header::UPGRADE, header::HOST] {
            if let Some(value) = parts.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let upstream_request = self.upgrading.get(format!("{}{path}", self.url)).headers(headers);
        let upstream = upstream_request.send().await.map_err(|error| {
            tracing::warn!(%error, "the command role is unavailable");
            Problem::unavailable("the command role is unavailable; try again", 2)
        })?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = upstream.status();
        if upstream.status() != StatusCode::SWITCHING_PROTOCOLS {
            *response.headers_mut() = end_to_end_headers(upstream.headers());
            *response.body_mut() = Body::from_stream(upstream.bytes_stream());
            return Ok(response);
        }
        *response.headers_mut() = upstream.headers().clone();
        tokio::spawn(async move {
            let (Ok(client), Ok(mut command)) = (client.await, upstream.upgrade().await) else {
                return;
            };
            let mut client = TokioIo::new(client);
            let _ = tokio::io::copy_bidirectional(&mut client, &mut command).await;
        });
        Ok(response)
    }
}

/// Returns the headers to forward, with the client's address, which replaces any value in the
/// request.
fn forwarded_headers(parts: &Parts) -> HeaderMap {
    let mut headers = end_to_end_headers(&parts.headers);
    headers.remove(FORWARDED_FOR);
    let client = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    if let Some(ConnectInfo(client)) = client
        && let Ok(client) = HeaderValue::from_str(&client.ip().to_canonical().to_string())
    {
        headers.insert(FORWARDED_FOR, client);
    }
    headers
}

fn end_to_end_headers(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for name in NOT_FORWARDED {
        kept.remove(name);
    }
    kept
}
