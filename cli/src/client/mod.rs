//! The API client: one HTTPS connection, defined by URL, token and CA.

mod connection;
pub(crate) mod contexts;
mod socket;

use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context as _, Result};
use muster_api::position::MIN_POSITION;
use muster_schemas::errors::root_cause;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::exit::RequestError;
use crate::output::note;
pub(crate) use connection::Connection;
pub(crate) use socket::Socket;

/// Maximum number of items on one page of the API.
const MAX_PAGE_ITEMS: u16 = 1000;

/// The API of one server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// HTTP client for websockets, which need HTTP/1.1.
    upgrading: reqwest::Client,
    url: String,
    token: String,
    project: Option<String>,
}

impl Client {
    pub(crate) fn new(url: &str, token: &str, ca: Option<&Path>) -> Result<Self> {
        let builder = || {
            reqwest::Client::builder()
                .connect_timeout(Duration::from_secs(10))
                .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
        };
        let (mut http, mut upgrading) = (builder(), builder().http1_only());
        if let Some(path) = ca {
            let pem = std::fs::read(path)
                .with_context(|| format!("failed to read the CA in {}", path.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("{} contains no certificate", path.display()))?;
            http = http.tls_certs_only(certificates.clone());
            upgrading = upgrading.tls_certs_only(certificates);
        }
        let http = http.build().context("failed to set up HTTPS")?;
        let upgrading = upgrading.build().context("failed to set up HTTPS")?;
        let (url, token) = (url.trim_end_matches('/').to_owned(), token.to_owned());
        Ok(Self { http, upgrading, url, token, project: None })
    }

    /// Returns the URL of the server.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request =
            self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        match &self.project {
            Some(project) => request.query(&[("project", project)]),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        report_degraded(&response);
        if response.status().is_success() || response.status().as_u16() == 101 {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = response.text().await.unwrap_or_default();
        let problem = serde_json::from_str::<Value>(&body).unwrap_or_default();
        let detail = problem["detail"]
            .as_str()
            .map(str::to_owned)
            .unwrap_or_else(|| format!("the server returned {status}: {}", body.trim()));
        let kind = problem["type"].as_str().and_then(|kind| kind.strip_prefix("/problems/"));
        let kind = kind.unwrap_or_default().to_owned();
        Err(RequestError::Problem { status, kind, detail }.into())
    }

    fn unreachable(&self, error: &reqwest::Error) -> RequestError {
        RequestError::Unreachable { url: self.url.clone(), problem: root_cause(error) }
    }

    async fn json(&self, request: RequestBuilder) -> Result<Value> {
        let response = self.send(request.timeout(Duration::from_secs(60))).await?;
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).context("the server's response is not JSON")
    }

    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value> {
        self.get_at(path, query, None).await
    }

    /// Sends a GET request that waits until the response includes this position of the log.
    pub(crate) async fn get_at(
        &self,
        path: &str,
        query: &[(&str, String)],
        position: Option<u64>,
    ) -> Result<Value> {
        let mut request = self.request(Method::GET, path).query(query);
        if let Some(position) = position {
            request = request.header(MIN_POSITION, position);
        }
        self.json(request).await
    }

    /// Waits until `list` includes a write, so that the next command sees it. A timeout does not
    /// make the write fail.
    pub(crate) async fn wait_until_listed(&self, list: &str, position: &Value) {
        if let Some(position) = position.as_u64() {
            let one = [("limit", "1".to_owned())];
            if let Err(error) = self.get_at(list, &one, Some(position)).await {
                tracing::debug!(error = format!("{error:#}"), "the read model is behind");
            }
        }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.json(self.request(Method::PATCH, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value> {
        self.json(self.request(Method::DELETE, path)).await
    }

    /// Returns all items of a list, page by page.
    pub(crate) async fn list(&self, path: &str, query: &[(&str, String)]) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut query = query.to_vec();
        query.push(("limit", MAX_PAGE_ITEMS.to_string()));
        loop {
            let mut page = self.get(path, &query).await?;
            if let Value::Array(found) = page["items"].take() {
                items.extend(found);
            }
            let Some(next) = page["next"].as_str() else { return Ok(items) };
            query.retain(|(name, _)| *name != "cursor");
            query.push(("cursor", next.to_owned()));
        }
    }

    /// Returns the first items of a list, at most `limit`, and whether there are more.
    pub(crate) async fn first(
        &self,
        path: &str,
        query: &[(&str, String)],
        limit: u16,
    ) -> Result<(Vec<Value>, bool)> {
        let mut query = query.to_vec();
        query.push(("limit", limit.to_string()));
        let mut page = self.get(path, &query).await?;
        let items = match page["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        Ok((items, page["next"].is_string()))
    }

    /// As [`Self::first`], or all items without a limit. A truncated list is reported on standard
    /// error.
    pub(crate) async fn newest(
        &self,
        path: &str,
        query: &[(&str, String)],
        limit: Option<u16>,
    ) -> Result<Vec<Value>> {
        let Some(limit) = limit else { return self.list(path, query).await };
        let (items, more) = self.first(path, query, limit).await?;
        if more {
            note(format!("showing the newest {}; there are more: --all shows all", items.len()));
        }
        Ok(items)
    }

    /// Streams the bytes of a response that includes this position of the log.
    pub(crate) async fn bytes(
        &self,
        path: &str,
        query: &[(&str, String)],
        position: Option<u64>,
    ) -> Result<Response> {
        let mut request = self.request(Method::GET, path).query(query);
        if let Some(position) = position {
            request = request.header(MIN_POSITION, position);
        }
        self.send(request).await
    }

    /// Streams bytes from an offset.
    pub(crate) async fn bytes_from(&self, path: &str, from: u64) -> Result<Response> {
        let mut request = self.request(Method::GET, path);
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        self.send(request).await
    }

    /// Opens a stream of server-sent events.
    pub(crate) async fn stream(&self, path: &str, query: &[(&str, String)]) -> Result<Response> {
        let request = self.request(Method::GET, path).query(query);
        self.send(request.header("accept", "text/event-stream")).await
    }
}

/// Reports once which stores the server cannot write: its responses may be outdated.
fn report_degraded(response: &Response) {
    static REPORT: Once = Once::new();
    if let Some(text) = response.headers().get("muster-degraded").and_then(|it| it.to_str().ok()) {
        REPORT.call_once(|| note(format!("warning: {text}")));
    }
}

/// Escapes a segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
