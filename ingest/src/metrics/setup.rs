//! Creation of what a metric store lacks, if the store permits it: the database of 1.x, the bucket
//! of 2.x, and the initial setup of a new 2.x. InfluxDB 3 creates a database at the first write.
//!
//! Idempotent: what exists is not changed.

use muster_schemas::errors::error_chain;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{InfluxClient, NO_QUERY};
use super::response::{read_text, store_message};
use super::store_settings::Api;

/// The administrator of a store that muster sets up.
const USER: &str = "muster";

impl InfluxClient {
    /// Creates the database (1.x) or bucket (2.x), unless it exists.
    ///
    /// # Errors
    /// When the store refuses; with its message.
    pub async fn create_database(&self) -> Result<(), String> {
        if self.api().await? == Api::V1 { self.create_v1().await } else { self.create_v2().await }
    }

    async fn create_v1(&self) -> Result<(), String> {
        let name = self.settings.database.replace('\\', "\\\\").replace('"', "\\\"");
        let statement = format!("CREATE DATABASE \"{name}\"");
        let request = self.request(Method::POST, "query", &[("q", &statement)])?;
        let (status, body) = send(request).await?;
        // InfluxQL reports some errors with status 200.
        if status.is_success() && !body.contains("\"error\"") {
            Ok(())
        } else {
            Err(format!("{status}: {}", store_message(&body)))
        }
    }

    async fn create_v2(&self) -> Result<(), String> {
        let Some(id) = self.org_id().await? else { return Ok(()) };
        let bucket = json!({"orgID": id, "name": self.settings.database, "retentionRules": []});
        let made = self.request(Method::POST, "api/v2/buckets", NO_QUERY)?.json(&bucket);
        let (status, body) = send(made).await?;
        // 422: a bucket of this name exists.
        if status.is_success() || status == StatusCode::UNPROCESSABLE_ENTITY {
            Ok(())
        } else {
            Err(format!("{status}: {}", store_message(&body)))
        }
    }

    /// The id of the organization in an InfluxDB 2.x; `None` if there is none: no organization is
    /// set, or the store is an InfluxDB 3 or a VictoriaMetrics.
    pub(super) async fn org_id(&self) -> Result<Option<String>, String> {
        let Some(org) = self.settings.org.as_deref() else { return Ok(None) };
        let found = self.request(Method::GET, "api/v2/orgs", &[("org", org)])?;
        let (status, body) = send(found).await?;
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
            && !body.contains("organization")
        {
            return Ok(None);
        }
        let orgs: Value = serde_json::from_str(&body).unwrap_or_default();
        match orgs["orgs"][0]["id"].as_str() {
            Some(id) => Ok(Some(id.to_owned())),
            None => Err(format!("the organization '{org}': {status}: {}", store_message(&body))),
        }
    }

    /// Sets up a new InfluxDB 2.x: a user, the organization, the bucket and a token for muster with
    /// all permissions. Does nothing to any other store.
    ///
    /// # Errors
    /// When the store refuses; with its message.
    pub async fn set_up(&self, password: &str) -> Result<(), String> {
        let settings = &self.settings;
        if self.api().await? == Api::V1 {
            return Ok(());
        }
        let (status, body) = send(self.request(Method::GET, "api/v2/setup", NO_QUERY)?).await?;
        let state: Value = serde_json::from_str(&body).unwrap_or_default();
        if !status.is_success() || state["allowed"] != true {
            return Ok(());
        }
        let request = json!({
            "username": USER,
            "password": password,
            "org": settings.org,
            "bucket": settings.database,
            "token": settings.token,
        });
        let (status, body) =
            send(self.request(Method::POST, "api/v2/setup", NO_QUERY)?.json(&request)).await?;
        if status == StatusCode::CREATED {
            Ok(())
        } else {
            Err(format!("{status}: {}", store_message(&body)))
        }
    }
}

pub(super) async fn send(request: reqwest::RequestBuilder) -> Result<(StatusCode, String), String> {
    let response = request.send().await.map_err(|error| error_chain(&error))?;
    Ok((response.status(), read_text(response).await))
}
