//! Files that operations request from devices: their limits, their receipts, and events about them
//! that no operator requested.

use std::sync::Arc;

use muster_blobs::BlobError;
use muster_eventlog::{Append, AppendError, Expected, NewEvent};
use muster_schemas::cose::Kind;
use muster_schemas::errors::root_cause;
use muster_schemas::events::{Action, Upload};
use muster_schemas::wire::FileStored;
use muster_schemas::{DeviceId, OperationId, ProjectId, StreamName, codec};

use crate::clock::now;
use crate::domain::Decider;
use crate::domain::operation::Operation;
use crate::domain::run::{Run, RunCommand};
use crate::error::CommandError;
use crate::executor::{Executor, until_appended};
use crate::keys::KeyStore;

/// Actor of events that no operator requested.
const ACTOR: &str = "role:command";

/// The requested files; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RequestedFiles {
    executor: Executor,
    keys: Arc<KeyStore>,
}

impl RequestedFiles {
    pub(super) const fn new(executor: Executor, keys: Arc<KeyStore>) -> Self {
        Self { executor, keys }
    }

    /// Returns the request of a device's upload; `None` when the operation is not an upload.
    pub(crate) async fn requested_upload(
        &self,
        project: &ProjectId,
        operation: OperationId,
    ) -> Result<Option<Upload>, CommandError> {
        let found =
            self.executor.load::<Operation>(project, &StreamName::Operation(operation)).await?;
        Ok(found.state.requested.and_then(|requested| match requested.action {
            Action::Upload(upload) => Some(upload),
            _ => None,
        }))
    }

    /// Returns the maximum size of this device's file, or why it is refused.
    pub(super) async fn requested_limit(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: DeviceId,
    ) -> Result<Result<u64, &'static str>, CommandError> {
        let Some(upload) = self.requested_upload(project, operation).await? else {
            return Ok(Err("the operation does not request a file"));
        };
        let run =
            self.executor.load::<Run>(project, &StreamName::Run(operation, device)).await?.state;
        Ok(match run.state {
            None => Err("it was never requested from this device"),
            Some(_) if run.is_erased => Err("the server has erased it"),
            Some(_) => Ok(upload.limit()),
        })
    }

    /// Returns the signed receipt that the server has all of a file.
    pub(super) fn receipt(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: DeviceId,
        bytes: u64,
    ) -> Result<Vec<u8>, CommandError> {
        let stored = FileStored { project: project.clone(), device, operation, bytes };
        let key = self.keys.operation_key(project)?;
        Ok(key.seal(Kind::Stored, codec::encode(&stored)))
    }

    /// Appends events that no operator requested.
    pub(crate) async fn append_automatic(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: DeviceId,
        command: RunCommand,
    ) -> Result<(), CommandError> {
        let stream = StreamName::Run(operation, device);
        until_appended(|| async {
            let loaded = self.executor.load::<Run>(project, &stream).await?;
            let at = now();
            let events = loaded.state.decide(command.clone())?;
            let events: Vec<_> = events.iter().map(|event| NewEvent::server(event, at)).collect();
            if events.is_empty() {
                return Ok(Some(()));
            }
            let append = Append { correlation: Some(operation.0), ..Append::by_actor(ACTOR) };
            let append = append.stream(stream.clone(), Expected::Version(loaded.version), events);
            match self.executor.log.append(project, append).await {
                Ok(_) => Ok(Some(())),
                Err(AppendError::Conflict { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Records that the blob store does not accept a device's data. A failure is only logged: the
    /// next piece retries it.
    pub(super) async fn record_stall(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: DeviceId,
        bytes: u64,
        error: &BlobError,
    ) {
        // The innermost cause contains no path of the server.
        let reason = format!("the server's blob store rejects writes: {}", root_cause(error));
        let command = RunCommand::Stall { bytes, reason };
        if let Err(error) = self.append_automatic(project, operation, device, command).await {
            tracing::debug!(%operation, %device, %error, "failed to record that an upload stalls");
        }
    }
}
