//! The HTTP client: the connection pool, credentials, the detected API.
//!
//! The other modules add the requests. For a store with an `https://` URL the process must have
//! installed a rustls crypto provider before it creates a client.

use std::sync::Arc;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use reqwest::header::AUTHORIZATION;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;

use crate::error::StoreError;
use crate::response::{read_text, status_error, store_message, version_header};
use crate::settings::{Api, Credentials, StoreSettings};
use crate::version::Version;

/// Maximum time until a connection is open; the timeout of the request if that is shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A request without parameters.
pub(crate) const NO_QUERY: &[(&str, &str)] = &[];

/// A connection pool to one store.
#[derive(Debug)]
pub struct InfluxClient {
    http: reqwest::Client,
    base: Url,
    settings: StoreSettings,
    api: OnceCell<Api>,
}

impl InfluxClient {
    /// Creates a client. It sends nothing yet: the store may be down.
    ///
    /// # Errors
    /// When the URL or the certificates are not usable.
    pub fn new(settings: StoreSettings) -> Result<Self, StoreError> {
        let url = settings.url.clone();
        let mut base = Url::parse(&url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| StoreError::Url(url.clone()))?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(settings.timeout.min(CONNECT_TIMEOUT))
            .timeout(settings.timeout);
        if base.scheme() == "http" {
            // A small container has no CA certificates, and needs none here.
            let tls = no_trusted_certificates()
                .map_err(|source| StoreError::Tls { url: url.clone(), source })?;
            builder = builder.tls_backend_preconfigured(tls);
        } else if let Some(pem) = &settings.ca_pem {
            let trusted = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|source| StoreError::Certificates { url: url.clone(), source })?;
            builder = builder.tls_certs_merge(trusted);
        }
        let http = builder.build().map_err(|source| StoreError::HttpClient { url, source })?;
        Ok(Self { http, base, settings, api: OnceCell::new() })
    }

    /// The store's host, without credentials.
    #[must_use]
    pub fn address(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// The settings of the store.
    #[must_use]
    pub const fn settings(&self) -> &StoreSettings {
        &self.settings
    }

    /// Checks that the store responds.
    ///
    /// # Errors
    /// When it is unreachable, or its response is not a success.
    #[boxed]
    pub async fn ping(&self) -> Result<(), StoreError> {
        let request = self.request(Method::GET, "ping", NO_QUERY);
        let (status, body) = self.send_text(request).await?;
        if status.is_success() { Ok(()) } else { Err(self.error_of(status, &body)) }
    }

    /// Requests the store's version: `/ping` (1.x, 2.x, 3.x), then `/health` (2.x).
    ///
    /// # Errors
    /// When the store is unreachable or its response contains no version.
    #[boxed]
    pub async fn version(&self) -> Result<Version, StoreError> {
        for path in ["ping", "health"] {
            let response = self.send(self.request(Method::GET, path, NO_QUERY)).await?;
            if let Some(version) = version_header(response.headers()) {
                return Ok(version);
            }
            let body: Option<serde_json::Value> =
                serde_json::from_str(&read_text(response).await).ok();
            let version =
                body.as_ref().and_then(|body| body["version"].as_str()).and_then(Version::parse);
            if let Some(version) = version {
                return Ok(version);
            }
        }
        Err(StoreError::UnknownVersion { store: self.store() })
    }

    /// The write API of the settings, or the one of the store's version.
    #[boxed]
    pub(crate) async fn api(&self) -> Result<Api, StoreError> {
        if self.settings.api != Api::Detect {
            return Ok(self.settings.api);
        }
        let detect = async || {
            let version = self.version().await?;
            tracing::info!(
                store = self.address(),
                version = version.text,
                "found the metric store"
            );
            Ok(if version.major == 1 { Api::V1 } else { Api::V2 })
        };
        self.api.get_or_try_init(detect).await.copied()
    }

    /// Builds a request with the credentials of the settings.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, impl AsRef<str>)],
    ) -> RequestBuilder {
        let request = self.anonymous_request(method, path, query);
        match &self.settings.credentials {
            Credentials::Open => request,
            Credentials::Password { user, password } => request.basic_auth(user, Some(password)),
            Credentials::Token { token, .. } => {
                request.header(AUTHORIZATION, format!("Token {token}"))
            }
        }
    }

    /// Builds a request without credentials.
    pub(crate) fn anonymous_request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, impl AsRef<str>)],
    ) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http.request(method, url)
    }

    #[boxed]
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, StoreError> {
        request.send().await.map_err(|source| self.unreachable(source))
    }

    /// Sends a request; returns the status, and the body up to the maximum size.
    #[boxed]
    pub(crate) async fn send_text(
        &self,
        request: RequestBuilder,
    ) -> Result<(StatusCode, String), StoreError> {
        let response = self.send(request).await?;
        Ok((response.status(), read_text(response).await))
    }

    pub(crate) fn unreachable(&self, source: reqwest::Error) -> StoreError {
        StoreError::Unreachable { store: self.store(), source }
    }

    /// The error of a response that is not a success; with the status in the message.
    pub(crate) fn error_of(&self, status: StatusCode, body: &str) -> StoreError {
        match status_error(&self.store(), status, store_message(body)) {
            StoreError::Refused { store, message } => {
                StoreError::Refused { store, message: format!("{status}: {message}") }
            }
            error => error,
        }
    }

    pub(crate) fn refused(&self, message: String) -> StoreError {
        StoreError::Refused { store: self.store(), message }
    }

    /// The store's address in errors.
    pub(crate) fn store(&self) -> String {
        self.address().to_owned()
    }
}

/// TLS settings for plain HTTP, with which no certificate is valid. They name the crypto provider,
/// so that the process does not have to install one.
fn no_trusted_certificates() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}
