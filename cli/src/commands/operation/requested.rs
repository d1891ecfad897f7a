//! An operation that a command creates.

use anyhow::Result;
use muster_api_types::devices::DeviceDetail;
use muster_api_types::operations::{OperationRequestedResult, RequestOperation, Target};
use muster_client::RequestError;
use muster_client::{Client, segment};
use muster_schemas::Position;
use serde_json::json;

use super::api::OPERATIONS;
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
    let Target::Devices(target) = &request.target else {
        return error;
    };
    let Some(name) = target.devices.first().filter(|_| is_invalid) else {
        return error;
    };
    match client.get::<DeviceDetail>(&format!("/api/v1/devices/{}", segment(name)), &[]).await {
        Err(other) if code(&other) == NOT_FOUND => NotFound(error.to_string()).into(),
        _ => error,
    }
}
