//! Creation of what a metric store lacks, if the store permits it: the database of 1.x, the bucket
//! of 2.x, and the initial setup of a new 2.x. InfluxDB 3 creates a database at the first write.
//!
//! Idempotent: what exists is not changed.

use async_recursion::async_recursion as boxed;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{InfluxClient, NO_QUERY};
use crate::error::StoreError;
use crate::quoting::identifier;
use crate::response::store_message;
use crate::settings::{Api, Credentials};

/// Name of the administrator of a store that muster sets up.
pub const ADMINISTRATOR: &str = "muster";

impl InfluxClient {
    /// Creates the database (1.x) or bucket (2.x), unless it exists.
    ///
    /// # Errors
    /// When the store refuses, or is unavailable.
    #[boxed]
    pub async fn create_database(&self) -> Result<(), StoreError> {
        if self.api().await? == Api::V1 { self.create_v1().await } else { self.create_v2().await }
    }

    async fn create_v1(&self) -> Result<(), StoreError> {
        let name = identifier(&self.settings().database);
        self.execute(&format!("CREATE DATABASE {name}")).await
    }

    async fn create_v2(&self) -> Result<(), StoreError> {
        let Some(id) = self.org_id().await? else { return Ok(()) };
        let bucket = json!({"orgID": id, "name": self.settings().database, "retentionRules": []});
        let made = self.request(Method::POST, "api/v2/buckets", NO_QUERY).json(&bucket);
        let (status, body) = self.send_text(made).await?;
        // 422: a bucket of this name exists.
        if status.is_success() || status == StatusCode::UNPROCESSABLE_ENTITY {
            Ok(())
        } else {
            Err(self.error_of(status, &body))
        }
    }

    /// The id of the organization in an InfluxDB 2.x; `None` if there is none: no organization is
    /// set, or the store is an InfluxDB 3 or a VictoriaMetrics.
    #[boxed]
    pub(crate) async fn org_id(&self) -> Result<Option<String>, StoreError> {
        let Some(org) = self.settings().organization() else { return Ok(None) };
        let found = self.request(Method::GET, "api/v2/orgs", &[("org", org)]);
        let (status, body) = self.send_text(found).await?;
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
            && !body.contains("organization")
        {
            return Ok(None);
        }
        let orgs: Value = serde_json::from_str(&body).unwrap_or_default();
        match orgs["orgs"][0]["id"].as_str() {
            Some(id) => Ok(Some(id.to_owned())),
            None => Err(StoreError::OrganizationMissing {
                store: self.store(),
                organization: org.to_owned(),
                message: format!("{status}: {}", store_message(&body)),
            }),
        }
    }

    /// Sets up a new InfluxDB 2.x: a user, the organization, the bucket and a token for muster with
    /// all permissions. Does nothing to any other store.
    ///
    /// # Errors
    /// When the store refuses, or is unavailable.
    #[boxed]
    pub async fn set_up(&self, password: &str) -> Result<(), StoreError> {
        if self.api().await? == Api::V1 {
            return Ok(());
        }
        let request = self.request(Method::GET, "api/v2/setup", NO_QUERY);
        let (status, body) = self.send_text(request).await?;
        if status.is_server_error() {
            return Err(self.error_of(status, &body));
        }
        let state: Value = serde_json::from_str(&body).unwrap_or_default();
        if !status.is_success() || state["allowed"] != true {
            return Ok(());
        }
        let (organization, token) = match &self.settings().credentials {
            Credentials::Token { organization, token } => (organization.as_ref(), Some(token)),
            Credentials::Open | Credentials::Password { .. } => (None, None),
        };
        let request = json!({
            "username": ADMINISTRATOR,
            "password": password,
            "org": organization,
            "bucket": self.settings().database,
            "token": token,
        });
        let request = self.request(Method::POST, "api/v2/setup", NO_QUERY).json(&request);
        let (status, body) = self.send_text(request).await?;
        if status == StatusCode::CREATED { Ok(()) } else { Err(self.error_of(status, &body)) }
    }
}
