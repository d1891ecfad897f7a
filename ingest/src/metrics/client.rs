//! A small InfluxDB client: writes line protocol through the v1 or the v2 API.
//!
//! One request, one [`WriteResponse`]: [`super::writer`] retries and splits, `setup` creates what is
//! missing. Queries are sent by the query role, not here.
//!
//! The process must have installed a rustls crypto provider before it creates a client, even for
//! `http://`.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use muster_schemas::errors::error_chain;
use muster_schemas::retention::own_bucket;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use tokio::sync::OnceCell;

use super::bucket::MetricBucket;
use super::response::{Version, WriteResponse, classify_response, parse_version, read_text};
use super::store_settings::{Api, StoreSettings};

/// No client can be created from the settings.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not valid.
    #[error("'{0}' is not the URL of a metric store; write it as http://host:8086")]
    Url(String),
    /// The certificates cannot be parsed.
    #[error("failed to read the CA certificates for {url}; they must be PEM")]
    Certificates {
        /// The URL of the store.
        url: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The HTTP client cannot be created.
    #[error("failed to create an HTTP client for {url}")]
    Build {
        /// The URL of the store.
        url: String,
        /// The cause.
        source: reqwest::Error,
    },
}

/// A request without parameters.
pub(super) const NO_QUERY: &[(&str, &str)] = &[];

/// A connection pool to one store.
#[derive(Debug)]
pub struct InfluxClient {
    http: reqwest::Client,
    base: Url,
    pub(super) settings: StoreSettings,
    api: OnceCell<Api>,
}

impl InfluxClient {
    /// Creates a client. It sends nothing yet: the store may be down.
    ///
    /// # Errors
    /// When the URL or the certificates are not usable.
    pub fn new(settings: StoreSettings) -> Result<Self, ClientError> {
        let url = settings.url.clone();
        let mut base = Url::parse(&url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| ClientError::Url(url.clone()))?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(settings.timeout.min(Duration::from_secs(5)))
            .timeout(settings.timeout);
        if base.scheme() == "http" {
            // A small container has no CA certificates, and needs none here.
            builder = builder.tls_certs_only([]);
        } else if let Some(pem) = &settings.ca_pem {
            let trusted = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|source| ClientError::Certificates { url: url.clone(), source })?;
            builder = builder.tls_certs_merge(trusted);
        }
        let http = builder.build().map_err(|source| ClientError::Build { url, source })?;
        Ok(Self { http, base, settings, api: OnceCell::new() })
    }

    /// The store's address, without credentials.
    #[must_use]
    pub fn address(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// Requests the store's version: `/ping` (1.x, 2.x, 3.x), then `/health` (2.x).
    ///
    /// # Errors
    /// When the store is unreachable or its response contains no version; the reason, as text.
    pub async fn version(&self) -> Result<Version, String> {
        for path in ["ping", "health"] {
            let response = self.request(reqwest::Method::GET, path, NO_QUERY)?.send().await;
            let response = response.map_err(|error| error_chain(&error))?;
            let header = response
                .headers()
                .get("x-influxdb-version")
                .and_then(|value| value.to_str().ok())
                .and_then(parse_version);
            if let Some(version) = header {
                return Ok(version);
            }
            let body: Option<serde_json::Value> =
                serde_json::from_str(&read_text(response).await).ok();
            let version =
                body.as_ref().and_then(|body| body["version"].as_str()).and_then(parse_version);
            if let Some(version) = version {
                return Ok(version);
            }
        }
        Err("it does not report its version; set the API to v1 or v2".to_owned())
    }

    /// Writes a body of [`Self::pack`] to the shared database.
    pub async fn write(&self, body: Bytes) -> WriteResponse {
        self.write_to(&MetricBucket::Shared, body).await
    }

    /// Writes a body to a bucket. [`WriteResponse::DatabaseMissing`] is also returned if that
    /// bucket is missing.
    pub async fn write_to(&self, bucket: &MetricBucket, body: Bytes) -> WriteResponse {
        let api = match self.api().await {
            Ok(api) => api,
            Err(reason) => return WriteResponse::Unavailable(reason),
        };
        let path = if api == Api::V1 { "write" } else { "api/v2/write" };
        let mut request = match self.request(reqwest::Method::POST, path, &self.query(api, bucket))
        {
            Ok(request) => request.header(CONTENT_TYPE, "text/plain; charset=utf-8"),
            Err(reason) => return WriteResponse::Misconfigured(reason),
        };
        if self.settings.gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        match request.body(body).send().await {
            Ok(response) => match classify_response(api, response).await {
                // 1.x responds to a missing retention policy with status 500.
                WriteResponse::Unavailable(reason)
                    if *bucket != MetricBucket::Shared
                        && reason.contains("retention policy not found") =>
                {
                    WriteResponse::DatabaseMissing(reason)
                }
                other => other,
            },
            Err(error) => WriteResponse::Unavailable(error_chain(&error)),
        }
    }

    /// Creates a request body from lines, compressed at level 1 if the settings require it.
    /// CPU-bound, about 2 ms per megabyte: do not call it on the runtime's own threads.
    #[must_use]
    pub fn pack(&self, lines: Vec<u8>) -> Bytes {
        if !self.settings.gzip {
            return lines.into();
        }
        let mut encoder = GzEncoder::new(Vec::with_capacity(lines.len() / 6), Compression::fast());
        // Writing into memory cannot fail; if it did, the empty body would write nothing.
        let packed = encoder.write_all(&lines).and_then(|()| encoder.finish());
        packed.unwrap_or_default().into()
    }

    pub(super) async fn api(&self) -> Result<Api, String> {
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

    fn query<'a>(
        &'a self,
        api: Api,
        bucket: &'a MetricBucket,
    ) -> Vec<(&'static str, Cow<'a, str>)> {
        let settings = &self.settings;
        let database = settings.database.as_str();
        if api == Api::V1 {
            let policy = match bucket {
                MetricBucket::Shared => settings.retention_policy.as_deref(),
                MetricBucket::Own { policy, .. } => Some(&**policy),
            };
            let policy = policy.map(|policy| ("rp", policy.into()));
            [("db", database.into()), ("precision", "u".into())].into_iter().chain(policy).collect()
        } else {
            let bucket = match bucket {
                MetricBucket::Shared => database.into(),
                MetricBucket::Own { policy, .. } => own_bucket(database, policy).into(),
            };
            let org = settings.org.as_deref().map(|org| ("org", org.into()));
            [("bucket", bucket), ("precision", "us".into())].into_iter().chain(org).collect()
        }
    }

    pub(super) fn request(
        &self,
        method: reqwest::Method,
        path: &str,
        query: &[(&str, impl AsRef<str>)],
    ) -> Result<reqwest::RequestBuilder, String> {
        let mut url =
            self.base.join(path).map_err(|error| format!("its URL is invalid: {error}"))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        Ok(match (&self.settings.token, &self.settings.user) {
            (Some(token), _) => request.header(AUTHORIZATION, format!("Token {token}")),
            (None, Some(user)) => request.basic_auth(user, self.settings.password.as_ref()),
            (None, None) => request,
        })
    }
}
