//! The API client: one HTTPS connection, defined by URL, token and CA.

mod connection;
pub(crate) mod contexts;
mod received;
mod socket;

use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context as _, Result};
use muster_api::position::MIN_POSITION;
use muster_api_types::Page;
use muster_api_types::problems::ProblemDocument;
use muster_schemas::errors::root_cause;
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::exit::RequestError;
use crate::output::note;
pub(crate) use connection::Connection;
pub(crate) use received::Received;
pub(crate) use socket::{Socket, control};

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
        let (kind, detail) = match serde_json::from_str::<ProblemDocument>(&body) {
            Ok(problem) => {
                let kind = problem.kind.strip_prefix("/problems/").unwrap_or_default();
                (kind.to_owned(), problem.detail)
            }
            Err(_) => (String::new(), format!("the server returned {status}: {}", body.trim())),
        };
        Err(RequestError::Problem { status, kind, detail }.into())
    }

    fn unreachable(&self, error: &reqwest::Error) -> RequestError {
        RequestError::Unreachable { url: self.url.clone(), problem: root_cause(error) }
    }

    async fn receive<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Received<T>> {
        let response = self.send(request.timeout(Duration::from_secs(60))).await?;
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        let json = serde_json::from_slice(&body).context("the server's response is not JSON")?;
        Received::from_json(json)
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Received<T>> {
        self.get_at(path, query, None).await
    }

    /// Sends a GET request that waits until the response includes this position of the log.
    pub(crate) async fn get_at<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        position: Option<u64>,
    ) -> Result<Received<T>> {
        let mut request = self.request(Method::GET, path).query(query);
        if let Some(position) = position {
            request = request.header(MIN_POSITION, position);
        }
        self.receive(request).await
    }

    /// Waits until `list` includes a write, so that the next command sees it. A timeout does not
    /// make the write fail.
    pub(crate) async fn wait_until_listed(&self, list: &str, position: u64) {
        let one = [("limit", "1".to_owned())];
        if let Err(error) = self.get_at::<IgnoredAny>(list, &one, Some(position)).await {
            tracing::debug!(error = format!("{error:#}"), "the read model is behind");
        }
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Received<T>> {
        self.receive(self.request(Method::POST, path).json(body)).await
    }

    /// Sends a POST request without content.
    pub(crate) async fn post_empty<T: DeserializeOwned>(&self, path: &str) -> Result<Received<T>> {
        self.post(path, &Value::Object(serde_json::Map::new())).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Received<T>> {
        self.receive(self.request(Method::PATCH, path).json(body)).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<Received<T>> {
        self.receive(self.request(Method::DELETE, path)).await
    }

    /// Returns a page of a list.
    async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Page<Received<T>>> {
        let page = self.get::<Page<Value>>(path, query).await?.into_content();
        let items = page.items.into_iter().map(Received::from_json).collect::<Result<_>>()?;
        Ok(Page { items, next: page.next })
    }

    /// Returns all items of a list, page by page.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Vec<Received<T>>> {
        let mut items = Vec::new();
        let mut query = query.to_vec();
        query.push(("limit", MAX_PAGE_ITEMS.to_string()));
        loop {
            let page = self.page(path, &query).await?;
            items.extend(page.items);
            let Some(next) = page.next else { return Ok(items) };
            query.retain(|(name, _)| *name != "cursor");
            query.push(("cursor", next));
        }
    }

    /// Returns the first items of a list, at most `limit`, and whether there are more.
    pub(crate) async fn first<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        limit: u16,
    ) -> Result<(Vec<Received<T>>, bool)> {
        let mut query = query.to_vec();
        query.push(("limit", limit.to_string()));
        let page = self.page(path, &query).await?;
        Ok((page.items, page.next.is_some()))
    }

    /// As [`Self::first`], or all items without a limit. A truncated list is reported on standard
    /// error.
    pub(crate) async fn newest<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        limit: Option<u16>,
    ) -> Result<Vec<Received<T>>> {
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
