//! The API client: one HTTPS connection, defined by URL, token and CA.

use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_recursion::async_recursion as boxed;
use muster_api_types::headers::{DEGRADED, MIN_POSITION};
use muster_api_types::metrics::WithoutFreshValue;
use muster_api_types::problems::ProblemDocument;
use muster_schemas::Position;
use muster_schemas::errors::root_cause;
use reqwest::{Method, RequestBuilder, Response};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::RequestError;
use crate::list::List;
use crate::received::Received;

/// Maximum number of items on one page of the API.
const MAX_PAGE_ITEMS: u16 = 1000;

/// The API of one server.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// HTTP client for websockets, which need HTTP/1.1.
    pub(crate) upgrading: reqwest::Client,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) project: Option<String>,
    on_warning: fn(&str),
    has_warned: Arc<Once>,
}

/// A page of any list, also one of devices.
#[derive(Debug, Deserialize)]
struct AnyPage {
    items: Vec<Value>,
    next: Option<String>,
    #[serde(default)]
    without_fresh_value: Vec<WithoutFreshValue>,
}

impl Client {
    /// Creates a client. `ca` is a file with the only certificates that it trusts; default: those
    /// of the system.
    ///
    /// # Errors
    /// When `ca` contains no certificate.
    pub fn new(url: &str, token: &str, ca: Option<&Path>) -> Result<Self> {
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
        let (on_warning, has_warned) = (|_: &str| {}, Arc::new(Once::new()));
        Ok(Self { http, upgrading, url, token, project: None, on_warning, has_warned })
    }

    /// Sets the project of all requests, for server-wide tokens.
    #[must_use]
    pub fn with_project(self, project: Option<String>) -> Self {
        Self { project, ..self }
    }

    /// Sets what is done with the first warning of the server.
    #[must_use]
    pub fn on_warning(self, on_warning: fn(&str)) -> Self {
        Self { on_warning, ..self }
    }

    /// Returns the URL of the server.
    #[must_use]
    pub fn url(&self) -> &str {
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

    /// Creates a write. The response does not wait for the read models: a client that writes to many
    /// devices waits once, for the last position ([`Self::wait_until_listed`]).
    fn write(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).header("prefer", "respond-async")
    }

    #[boxed]
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.report_degraded(&response);
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

    /// Reports once which stores the server cannot write: its responses may be outdated.
    fn report_degraded(&self, response: &Response) {
        if let Some(text) = response.headers().get(DEGRADED).and_then(|text| text.to_str().ok()) {
            self.has_warned.call_once(|| (self.on_warning)(text));
        }
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

    /// Sends a GET request.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Received<T>> {
        self.get_at(path, query, None).await
    }

    /// Sends a GET request that waits until the response includes this position of the log.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    pub async fn get_at<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        position: Option<Position>,
    ) -> Result<Received<T>> {
        let mut request = self.request(Method::GET, path).query(query);
        if let Some(position) = position {
            request = request.header(MIN_POSITION, position.get());
        }
        self.receive(request).await
    }

    /// Waits until `list` includes a write, so that the next command sees it. A timeout does not
    /// make the write fail.
    #[boxed]
    pub async fn wait_until_listed(&self, list: &str, position: Position) {
        let one = [("limit", "1".to_owned())];
        if let Err(error) = self.get_at::<IgnoredAny>(list, &one, Some(position)).await {
            tracing::debug!(error = format!("{error:#}"), "the read model is behind");
        }
    }

    /// Sends a POST request.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Received<T>> {
        self.receive(self.write(Method::POST, path).json(body)).await
    }

    /// Sends a POST request without content.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    pub async fn post_empty<T: DeserializeOwned>(&self, path: &str) -> Result<Received<T>> {
        self.post(path, &Value::Object(serde_json::Map::new())).await
    }

    /// Sends a PATCH request.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Received<T>> {
        self.receive(self.write(Method::PATCH, path).json(body)).await
    }

    /// Sends a DELETE request.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<Received<T>> {
        self.receive(self.write(Method::DELETE, path)).await
    }

    /// Returns a page of a list.
    async fn page(&self, path: &str, query: &[(&str, String)]) -> Result<AnyPage> {
        Ok(self.get::<AnyPage>(path, query).await?.into_content())
    }

    /// Returns all items of a list, page by page.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    pub async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Vec<Received<T>>> {
        self.items(path, query).await?.complete()
    }

    /// Returns all items of a list to show them: one that this version cannot parse is kept as JSON.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    pub async fn items<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<List<T>> {
        let mut list = List::default();
        let mut query = query.to_vec();
        query.push(("limit", MAX_PAGE_ITEMS.to_string()));
        loop {
            let page = self.page(path, &query).await?;
            list.extend(page.items);
            if list.without_fresh_value.is_empty() {
                list.without_fresh_value = page.without_fresh_value;
            }
            let Some(next) = page.next else {
                return Ok(list);
            };
            query.retain(|(name, _)| *name != "cursor");
            query.push(("cursor", next));
        }
    }

    /// Returns the first items of a list, at most `limit`, and whether there are more.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    pub async fn first<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        limit: u16,
    ) -> Result<(Vec<Received<T>>, bool)> {
        let (list, more) = self.newest(path, query, Some(limit)).await?;
        Ok((list.complete()?, more))
    }

    /// As [`Self::items`], but at most `limit` items if there is a limit, and whether there are more.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    pub async fn newest<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        limit: Option<u16>,
    ) -> Result<(List<T>, bool)> {
        let Some(limit) = limit else {
            return Ok((self.items(path, query).await?, false));
        };
        let mut query = query.to_vec();
        query.push(("limit", limit.to_string()));
        let page = self.page(path, &query).await?;
        let mut list = List::default();
        list.extend(page.items);
        Ok((list, page.next.is_some()))
    }

    /// Streams the bytes of a response that includes this position of the log.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    #[boxed]
    pub async fn bytes(
        &self,
        path: &str,
        query: &[(&str, String)],
        position: Option<Position>,
    ) -> Result<Response> {
        let mut request = self.request(Method::GET, path).query(query);
        if let Some(position) = position {
            request = request.header(MIN_POSITION, position.get());
        }
        self.send(request).await
    }

    /// Streams bytes from an offset.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    #[boxed]
    pub async fn bytes_from(&self, path: &str, from: u64) -> Result<Response> {
        let mut request = self.request(Method::GET, path);
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        self.send(request).await
    }

    /// Opens a stream of server-sent events.
    ///
    /// # Errors
    /// When the server is unreachable or refuses the request ([`RequestError`]), or its response is
    /// invalid.
    #[boxed]
    pub async fn stream(&self, path: &str, query: &[(&str, String)]) -> Result<Response> {
        let request = self.request(Method::GET, path).query(query);
        self.send(request.header("accept", "text/event-stream")).await
    }
}

/// Escapes a segment of a path.
#[must_use]
pub fn segment(text: &str) -> String {
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
