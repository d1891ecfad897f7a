//! An operation that a command creates.

use anyhow::Result;
use muster_api_types::devices::DeviceDetail;
use muster_api_types::operations::{OperationRequestedResult, RequestOperation, Target};
use muster_client::RequestError;
use muster_client::{Client, segment};
use muster_schemas::Position;
use serde_json::json;

use super::api::OPERATIONS;
use crate::commands::target::{is_deleted, note_without_fresh_value};
use crate::exit::{NOT_FOUND, NotFound, code};
use crate::output::{self, line};

/// An operation that this command created.
#[derive(Clone, Debug)]
pub(crate) struct RequestedOperation {
    pub(crate) id: String,
    pub(crate) devices: u64,
    /// Position of the operation in the log; reads that must see it wait for this position.
    pub(crate) position: Option<Position>,
}

impl RequestedOperation {
    /// Creates the operation.
    pub(crate) async fn new(client: &Client, request: &RequestOperation) -> Result<Self> {
        let made = match client.post::<OperationRequestedResult>(OPERATIONS, request).await {
            Ok(made) => made,
            Err(error) => return Err(map_unknown_device(client, request, error).await),
        };
        note_without_fresh_value(&made.without_fresh_value);
        Ok(Self {
            id: made.id.to_string(),
            devices: made.device_count,
            position: Some(made.result.position),
        })
    }

    /// Prints the operation's id, and hints for further commands.
    pub(crate) fn print(&self, json: bool) -> Result<()> {
        if json {
            return output::json(&json!({"id": self.id, "device_count": self.devices}));
        }
        line(&self.id);
        output::note(format!("for {} devices; muster operation show {}", self.devices, self.id));
        Ok(())
    }
}

/// Reports an unknown device as "not found", for scripts; the API reports an invalid field.
async fn map_unknown_device(
    client: &Client,
    request: &RequestOperation,
    error: anyhow::Error,
) -> anyhow::Error {
    let is_invalid = matches!(
        error.downcast_ref::<RequestError>(),
        Some(RequestError::Problem { status: 400, .. })
    );
    let names = match &request.target {
        Target::Devices(target) if is_invalid => target.devices.as_slice(),
        _ => &[],
    };
    for name in names {
        let path = format!("/api/v1/devices/{}", segment(name));
        match client.get::<DeviceDetail>(&path, &[]).await {
            Ok(found) if is_deleted(&found.summary) => return NotFound(error.to_string()).into(),
            Err(other) if code(&other) == NOT_FOUND => return NotFound(error.to_string()).into(),
            _ => {}
        }
    }
    error
}
