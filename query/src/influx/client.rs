//! Asks InfluxDB, through the `/query` endpoint of its v1 API.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::places::{Heard, Places};

/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer that is read.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Where metrics are.
#[derive(Clone, Debug)]
pub struct InfluxQueryOptions {
    /// `http://host:8086`.
    pub url: url::Url,
    /// The database; the bucket of a 2.x.
    pub database: String,
    /// How to sign in.
    pub credentials: InfluxCredentials,
}

/// How to sign in. `Debug` does not show secrets.
#[derive(Clone)]
pub enum InfluxCredentials {
    /// Not at all.
    Open,
    /// 1.x.
    Password {
        /// The user.
        user: String,
        /// Its password.
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

/// InfluxDB gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum InfluxError {
    /// The client cannot be made.
    #[error("failed to make a client of InfluxDB")]
    Client(#[source] reqwest::Error),
    /// It cannot be reached, or is too slow.
    #[error("failed to ask InfluxDB")]
    Away(#[source] reqwest::Error),
    /// It is there, and not able to answer now.
    #[error("InfluxDB answered {0}")]
    Busy(reqwest::StatusCode),
    /// It does not know us.
    #[error("InfluxDB refused the credentials ({0}); check what muster signs in with")]
    Denied(reqwest::StatusCode),
    /// It does not like the question.
    #[error("InfluxDB refused the query: {0}")]
    Refused(String),
    /// The answer is larger than is read.
    #[error("the answer of InfluxDB is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// The answer is not what InfluxDB answers.
    #[error("the answer of InfluxDB cannot be read")]
    Malformed(#[source] serde_json::Error),
}

/// A series of an answer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Row {
    /// The measurement.
    pub name: String,
    /// The tags that it was grouped by.
    pub tags: BTreeMap<String, String>,
    /// The columns' names.
    pub columns: Vec<String>,
    /// The values, by column.
    pub values: Vec<Vec<serde_json::Value>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    results: Vec<Statement>,
    error: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Statement {
    series: Vec<Row>,
    error: Option<String>,
}

/// Asks InfluxDB; cheap to clone.
#[derive(Clone, Debug)]
pub struct InfluxClient {
    http: reqwest::Client,
    pub(super) options: InfluxQueryOptions,
    pub(super) policies: Heard,
}

impl InfluxClient {
    /// A client. Connects only when it is asked.
    ///
    /// # Errors
    /// When there is no TLS provider, or the system's roots cannot be read.
    pub fn new(options: InfluxQueryOptions) -> Result<Self, InfluxError> {
        let mut http =
            reqwest::Client::builder().timeout(TIMEOUT).connect_timeout(Duration::from_secs(5));
        if options.url.scheme() == "http" {
            // A small container has no CAs, and needs none here.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(InfluxError::Client)?;
        Ok(Self { http, options, policies: Heard::default() })
    }

    /// Asks one question; the series of the answer, times in microseconds.
    ///
    /// # Errors
    /// See [`InfluxError`].
    pub async fn ask(&self, influxql: &str) -> Result<Vec<Row>, InfluxError> {
        self.ask_of(&self.options.database, influxql).await.map(|(rows, _)| rows)
    }

    /// Asks a `SHOW` of all places of a project; the answers of all, one after the other.
    ///
    /// # Errors
    /// See [`InfluxError`].
    pub async fn ask_all(&self, places: &Places, show: &str) -> Result<Vec<Row>, InfluxError> {
        let mut all = Vec::new();
        for database in places.databases(&self.options.database) {
            all.extend(self.ask_of(database, show).await?.0);
        }
        Ok(all)
    }

    /// Asks one question of a database; also answers the store's version, empty when it does not say.
    pub(super) async fn ask_of(
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
        let mut response = request.send().await.map_err(InfluxError::Away)?;
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
        while let Some(chunk) = response.chunk().await.map_err(InfluxError::Away)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(InfluxError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let said = serde_json::from_slice::<Answer>(&body).unwrap_or_default();
            let why = said.error.unwrap_or_else(|| status.to_string());
            return Err(InfluxError::Refused(why));
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(InfluxError::Malformed)?;
        let statement = answer.results.into_iter().next().unwrap_or_default();
        match answer.error.or(statement.error) {
            Some(why) => Err(InfluxError::Refused(why)),
            None => Ok((statement.series, version)),
        }
    }
}
