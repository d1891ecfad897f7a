//! The stores with the credentials of Grafana's users, from the exported data sources.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::queries::Store;

pub(super) struct Stores {
    postgres: tokio_postgres::Client,
    http: reqwest::Client,
    influx: Value,
}

impl Stores {
    /// Connects by the file that `muster grafana export` has written.
    pub(super) async fn open(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let file: Value = serde_norway::from_str(&text).unwrap();
        let source = |uid: &str| {
            let all = file["datasources"].as_array().unwrap();
            all.iter().find(|it| it["uid"] == uid).unwrap().clone()
        };
        let log = source("muster-log");
        assert_eq!(log["jsonData"]["sslmode"], "disable");
        let url = format!(
            "postgres://{}:{}@{}/{}",
            log["user"].as_str().unwrap(),
            log["secureJsonData"]["password"].as_str().unwrap(),
            log["url"].as_str().unwrap(),
            log["jsonData"]["database"].as_str().unwrap()
        );
        let (postgres, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        Self { postgres, http: reqwest::Client::new(), influx: source("muster-metrics") }
    }

    /// The rows of a query's result as texts, times included.
    pub(super) async fn query(
        &self,
        store: Store,
        query: &str,
    ) -> Result<Vec<Vec<String>>, String> {
        match store {
            Store::Postgres => self.query_postgres(query).await,
            Store::Influx => self.query_influx(query).await,
        }
    }

    async fn query_postgres(&self, query: &str) -> Result<Vec<Vec<String>>, String> {
        let messages = self.postgres.simple_query(query).await.map_err(|error| {
            error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
        })?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let column = |at| row.get(at).unwrap_or_default().to_owned();
                Some((0..row.len()).map(column).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    async fn query_influx(&self, query: &str) -> Result<Vec<Vec<String>>, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (user, password) =
            (text(&self.influx["user"]), text(&self.influx["secureJsonData"]["password"]));
        let database = text(&self.influx["jsonData"]["dbName"]);
        let url = format!("{}/query", text(&self.influx["url"]));
        let response = self
            .http
            .post(url)
            .basic_auth(user, Some(password))
            .query(&[("db", database.as_str()), ("q", query), ("epoch", "ms")])
            .send()
            .await
            .map_err(|error| error.to_string())?;
        let body: Value = response.json().await.map_err(|error| error.to_string())?;
        let result = &body["results"][0];
        if let Some(error) = result["error"].as_str().or_else(|| body["error"].as_str()) {
            return Err(error.to_owned());
        }
        let series = result["series"].as_array().cloned().unwrap_or_default();
        // `fill(null)` writes a row with only null values where there is no data.
        let as_row = |row: &Value| -> Option<Vec<String>> {
            let row = row.as_array()?;
            let values = if row.len() > 1 { &row[1..] } else { &row[..] };
            values.iter().any(|value| !value.is_null()).then(|| {
                let word = |it: &Value| it.as_str().map_or_else(|| it.to_string(), str::to_owned);
                row.iter().map(word).collect()
            })
        };
        Ok(series
            .iter()
            .flat_map(|it| it["values"].as_array().cloned().unwrap_or_default())
            .filter_map(|row| as_row(&row))
            .collect())
    }
}
