//! An operation that a command creates.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::api::OPERATIONS;
use crate::client::{Client, segment};
use crate::exit::{NOT_FOUND, NotFound, RequestError, code};
use crate::output::{self, line};

/// An operation that this command created.
#[derive(Clone, Debug)]
pub(crate) struct RequestedOperation {
    pub(crate) id: String,
    pub(crate) devices: u64,
    /// Position of the operation in the log; reads that must see it wait for this position.
    pub(crate) position: Option<u64>,
}

impl RequestedOperation {
    /// Creates the operation.
    pub(crate) async fn new(client: &Client, request: &Value) -> Result<Self> {
        let made = match client.post(OPERATIONS, request).await {
            Ok(made) => made,
            Err(error) => return Err(map_unknown_device(client, request, error).await),
        };
        Ok(Self {
            id: made["id"].as_str().context("the server returned no operation id")?.to_owned(),
            devices: made["devices"].as_u64().unwrap_or(0),
            position: made["position"].as_u64(),
        })
    }

    /// Prints the operation's id, and hints for further commands.
    pub(crate) fn print(&self, json: bool) -> Result<()> {
        if json {
            return output::json(&json!({"id": self.id, "devices": self.devices}));
        }
        line(&self.id);
        output::note(format!("for {} devices; muster operation show {}", self.devices, self.id));
        Ok(())
    }
}

/// Reports an unknown device as "not found", for scripts; the API reports an invalid field.
async fn map_unknown_device(
    client: &Client,
    request: &Value,
    error: anyhow::Error,
) -> anyhow::Error {
    let is_invalid = matches!(
        error.downcast_ref::<RequestError>(),
        Some(RequestError::Problem { status: 400, .. })
    );
    let Some(name) = request["target"]["devices"][0].as_str().filter(|_| is_invalid) else {
        return error;
    };
    match client.get(&format!("/api/v1/devices/{}", segment(name)), &[]).await {
        Err(other) if code(&other) == NOT_FOUND => NotFound(error.to_string()).into(),
        _ => error,
    }
}
