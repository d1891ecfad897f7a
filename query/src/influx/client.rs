//! Client of InfluxDB, for the `/query` endpoint of its v1 API.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::metric_buckets::MetricBuckets;
use super::policy_cache::PolicyCache;

/// Timeout of a query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum size of a response, in bytes.
const MAX_RESPONSE_BYTES: usize = 8 * 1024 * 1024;

/// The metric store and the credentials for it.
#[derive(Clone, Debug)]
pub struct InfluxQueryOptions {
    /// Base URL: `http://host:8086`.
    pub url: url::Url,
    /// Name of the database (1.x) or bucket (2.x).
    pub database: String,
    /// Credentials.
    pub credentials: InfluxCredentials,
}

/// Credentials. `Debug` does not show secrets.
#[derive(Clone)]
pub enum InfluxCredentials {
    /// No authentication.
    Open,
    /// 1.x.
    Password {
        /// Name of the user.
        user: String,
        /// Password of the user.
        password: String,
    },
    /// 2.x and 3.x.
    Token(String),
}

impl std::fmt::Debug for InfluxCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Password { .. } => "Password(…)",
            Self::Token(_) => "Token(…)",
        })
    }
}

/// InfluxDB returned no usable response.
#[derive(Debug, thiserror::Error)]
pub enum InfluxError {
    /// The client cannot be created.
    #[error("failed to create a client of InfluxDB")]
    Client(#[source] reqwest::Error),
    /// InfluxDB is unreachable, or too slow.
    #[error("failed to query InfluxDB")]
    Unreachable(#[source] reqwest::Error),
    /// InfluxDB cannot process queries now.
    #[error("InfluxDB returned status {0}")]
    Busy(reqwest::StatusCode),
    /// InfluxDB rejected the credentials.
    #[error("InfluxDB rejected the credentials ({0}); check muster's credentials for InfluxDB")]
    Denied(reqwest::StatusCode),
    /// InfluxDB rejected the query.
    #[error("InfluxDB rejected the query: {0}")]
    Refused(String),
    /// The response exceeds the maximum size.
    #[error("the response of InfluxDB exceeds {MAX_RESPONSE_BYTES} bytes")]
    TooLarge,
    /// The response cannot be parsed.
    #[error("failed to parse the response of InfluxDB")]
    Malformed(#[source] serde_json::Error),
}

/// A series of a response.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Row {
    /// The measurement.
    pub name: String,
    /// Tags by which it is grouped.
    pub tags: BTreeMap<String, String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows of values, in the order of the columns.
    pub values: Vec<Vec<serde_json::Value>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct QueryResponse {
    results: Vec<Statement>,
    error: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Statement {
    series: Vec<Row>,
    error: Option<String>,
}

/// Client of InfluxDB; cheap to clone.
#[derive(Clone, Debug)]
pub struct InfluxClient {
    http: reqwest::Client,
    pub(super) options: InfluxQueryOptions,
    pub(super) policies: PolicyCache,
}

impl InfluxClient {
    /// Creates a client, which connects at the first query.
    ///
    /// # Errors
    /// When there is no TLS provider, or the system's root certificates cannot be read.
    pub fn new(options: InfluxQueryOptions) -> Result<Self, InfluxError> {
        let mut http = reqwest::Client::builder()
            .timeout(QUERY_TIMEOUT)
            .connect_timeout(Duration::from_secs(5));
        if options.url.scheme() == "http" {
            // A small container may have no root certificates, and plain HTTP needs none.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(InfluxError::Client)?;
        Ok(Self { http, options, policies: PolicyCache::default() })
    }

    /// Executes a query; returns the series of the response, with times in microseconds.
    ///
    /// # Errors
    /// See [`InfluxError`].
    pub async fn query(&self, influxql: &str) -> Result<Vec<Row>, InfluxError> {
        self.query_database(&self.options.database, influxql).await.map(|(rows, _)| rows)
    }

    /// Executes a `SHOW` query in all buckets of a project; returns the series of all, one bucket
    /// after the other.
    ///
    /// # Errors
    /// See [`InfluxError`].
    pub async fn query_buckets(
        &self,
        buckets: &MetricBuckets,
        show: &str,
    ) -> Result<Vec<Row>, InfluxError> {
        let mut all = Vec::new();
        for database in buckets.databases(&self.options.database) {
            all.extend(self.query_database(database, show).await?.0);
        }
        Ok(all)
    }

    /// Executes a query in a database; returns also the store's version, empty when it sends none.
    pub(super) async fn query_database(
        &self,
        database: &str,
        influxql: &str,
    ) -> Result<(Vec<Row>, String), InfluxError> {
        let mut url = self.options.url.clone();
        url.set_path(&format!("{}/query", url.path().trim_end_matches('/')));
        url.query_pairs_mut()
            .append_pair("db", database)
            .append_pair("epoch", "u")
            .append_pair("q", influxql);
        let request = self.http.get(url);
        let request = match &self.options.credentials {
            InfluxCredentials::Open => request,
            InfluxCredentials::Password { user, password } => {
                request.basic_auth(user, Some(password))
            }
            InfluxCredentials::Token(token) => {
                request.header("Authorization", format!("Token {token}"))
            }
        };
        let mut response = request.send().await.map_err(InfluxError::Unreachable)?;
        let status = response.status();
        let version = response.headers().get("x-influxdb-version");
        let version = version.and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(InfluxError::Busy(status));
        }
        if matches!(status.as_u16(), 401 | 403) {
            return Err(InfluxError::Denied(status));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(InfluxError::Unreachable)? {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err(InfluxError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let reported = serde_json::from_slice::<QueryResponse>(&body).unwrap_or_default();
            let why = reported.error.unwrap_or_else(|| status.to_string());
            return Err(InfluxError::Refused(why));
        }
        let parsed: QueryResponse =
            serde_json::from_slice(&body).map_err(InfluxError::Malformed)?;
        let statement = parsed.results.into_iter().next().unwrap_or_default();
        match parsed.error.or(statement.error) {
            Some(why) => Err(InfluxError::Refused(why)),
            None => Ok((statement.series, version)),
        }
    }
}
