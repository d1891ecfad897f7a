//! Queries in InfluxQL, through the `/query` endpoint of the v1 API, which InfluxDB 1.x, 2.x and 3.x
//! have.

use std::collections::BTreeMap;

use async_recursion::async_recursion as boxed;
use reqwest::Method;
use serde::Deserialize;

use crate::client::InfluxClient;
use crate::error::{MAX_QUERY_RESPONSE_BYTES, StoreError};
use crate::response::{status_error, store_message, version_header};
use crate::version::Version;

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

impl InfluxClient {
    /// Executes a query in the database of the settings; returns the series of the response, with
    /// times in microseconds.
    ///
    /// # Errors
    /// When the store refuses, or is unavailable; when the response is too large or malformed.
    #[boxed]
    pub async fn query(&self, influxql: &str) -> Result<Vec<Row>, StoreError> {
        self.query_database(&self.settings().database, influxql).await
    }

    /// Executes a query in another database.
    ///
    /// # Errors
    /// See [`Self::query`].
    #[boxed]
    pub async fn query_database(
        &self,
        database: &str,
        influxql: &str,
    ) -> Result<Vec<Row>, StoreError> {
        self.query_with_version(database, influxql).await.map(|(rows, _)| rows)
    }

    /// Executes a query; returns also the store's version, if it sends one.
    #[boxed]
    pub(crate) async fn query_with_version(
        &self,
        database: &str,
        influxql: &str,
    ) -> Result<(Vec<Row>, Option<Version>), StoreError> {
        let parameters = [("db", database), ("epoch", "u"), ("q", influxql)];
        let mut response = self.send(self.request(Method::GET, "query", &parameters)).await?;
        let status = response.status();
        let version = version_header(response.headers());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| self.unreachable(source))? {
            if body.len() + chunk.len() > MAX_QUERY_RESPONSE_BYTES {
                return Err(StoreError::TooLarge { store: self.store() });
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let reported = serde_json::from_slice::<QueryResponse>(&body).unwrap_or_default();
            let text = || store_message(&String::from_utf8_lossy(&body));
            return Err(match status_error(&self.store(), status, text()) {
                StoreError::Refused { store, .. } => {
                    let message = reported.error.unwrap_or_else(|| status.to_string());
                    StoreError::Refused { store, message }
                }
                error => error,
            });
        }
        let parsed: QueryResponse = serde_json::from_slice(&body)
            .map_err(|source| StoreError::Malformed { store: self.store(), source })?;
        let statement = parsed.results.into_iter().next().unwrap_or_default();
        match parsed.error.or(statement.error) {
            Some(reason) => Err(self.refused(reason)),
            None => Ok((statement.series, version)),
        }
    }
}
