//! Uploaded files: erased, and shared by a download link.

use std::sync::Arc;

use muster_blobs::{BlobError, Blobs, key};
use muster_eventlog::{AppendError, EventLog};
use muster_schemas::errors::error_chain;
use muster_schemas::events::EraseCause;
use muster_schemas::wire::{DownloadText, OutputStream};
use muster_schemas::{DeviceId, Event, Hash, OperationId, ProjectId, StreamName, Timestamp};

use super::tokens::secret;
use crate::domain::Rejection;
use crate::domain::run::{Run, RunCommand};
use crate::error::CommandError;
use crate::executor::Executor;
use crate::keys::KeyStore;
use crate::outputs::Outputs;
use crate::request::{Request, Written};

/// A download link of a file.
#[derive(Clone, Debug)]
pub struct CreatedLink {
    /// Text of the link.
    pub text: DownloadText,
    /// Time at which the link expires.
    pub expires_at: Timestamp,
    /// Version and position of the creation in the log.
    pub written: Written,
}

/// Erases uploaded files, and creates links to them.
#[derive(Clone, Debug)]
pub struct Uploads {
    executor: Executor,
    keys: Arc<KeyStore>,
    outputs: Outputs,
    blobs: Blobs,
}

impl Uploads {
    pub(super) const fn new(
        executor: Executor,
        keys: Arc<KeyStore>,
        outputs: Outputs,
        blobs: Blobs,
    ) -> Self {
        Self { executor, keys, outputs, blobs }
    }

    /// The log that names the files.
    pub(crate) const fn log(&self) -> &EventLog {
        &self.executor.log
    }

    async fn change_file(
        &self,
        request: &Request,
        operation: OperationId,
        device: DeviceId,
        command: RunCommand,
    ) -> Result<Written, CommandError> {
        if self.outputs.files().requested_upload(&request.project, operation).await?.is_none() {
            return Err(Rejection::NotFound("upload").into());
        }
        let stream = StreamName::Run(operation, device);
        self.executor.execute::<Run>(request, &stream, command).await
    }

    /// Erases a stored file; an upload in progress is refused. What cannot be erased
    /// now is erased later (`uploads::eraser`).
    ///
    /// # Errors
    /// When the upload does not exist, or the log cannot be used.
    pub async fn erase(
        &self,
        request: &Request,
        operation: OperationId,
        device: DeviceId,
        cause: EraseCause,
    ) -> Result<Written, CommandError> {
        let command = RunCommand::Erase(cause);
        let written = self.change_file(request, operation, device, command).await?;
        self.erase_now(&request.project, operation, device).await;
        Ok(written)
    }

    /// Erases a stored file that has expired or was replaced, also in an archived project.
    ///
    /// # Errors
    /// When the log cannot be used.
    pub(crate) async fn erase_automatically(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: DeviceId,
        cause: EraseCause,
    ) -> Result<(), CommandError> {
        let command = RunCommand::Erase(cause);
        self.outputs.files().append_automatic(project, operation, device, command).await?;
        self.erase_now(project, operation, device).await;
        Ok(())
    }

    /// Erases a file whose erasure is in the log: no further piece of it is accepted.
    async fn erase_now(&self, project: &ProjectId, operation: OperationId, device: DeviceId) {
        self.outputs.forget_file(project, operation, device);
        if let Err(error) = self.erase_file(project, operation, device).await {
            let error = error_chain(&error);
            tracing::warn!(
                %operation, %device, error,
                "failed to erase a file; trying again later"
            );
        }
    }

    pub(crate) async fn erase_file(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: DeviceId,
    ) -> Result<(), BlobError> {
        let folder = key::output(project, operation, device, OutputStream::File);
        self.blobs.erase_all(&folder).await
    }

    /// Creates a link by which a file can be downloaded until `expires_at`. The same request again
    /// returns the same link.
    ///
    /// # Errors
    /// When the upload does not exist, it was erased, or the log cannot be used.
    pub async fn create_link(
        &self,
        request: &Request,
        operation: OperationId,
        device: DeviceId,
        expires_at: Timestamp,
    ) -> Result<CreatedLink, CommandError> {
        let secret = secret(self.keys.token_key(), request, &expires_at.micros().to_be_bytes());
        let text = DownloadText { project: request.project.clone(), operation, device, secret };
        if let Some(made) = self.previous_link(request, &text).await? {
            return Ok(made);
        }
        let command = RunCommand::CreateLink { secret: Hash::of(&secret), expires_at };
        self.change_file(request, operation, device, command).await?;
        // Another process may have completed the same request first.
        self.previous_link(request, &text).await?.ok_or_else(|| Rejection::NotFound("link").into())
    }

    async fn previous_link(
        &self,
        request: &Request,
        text: &DownloadText,
    ) -> Result<Option<CreatedLink>, CommandError> {
        let Some((appended, events)) = self.executor.first_result(request).await? else {
            return Ok(None);
        };
        let stream = StreamName::Run(text.operation, text.device);
        let made = events.iter().filter(|event| event.stream == stream).find_map(|stored| {
            match stored.event() {
                Ok(Event::DownloadLinkMade(made)) => Some((stored.stream_version, made.expires_at)),
                _ => None,
            }
        });
        let (version, expires_at) = made.ok_or(AppendError::IdReused)?;
        let written = Written { version, position: appended.last };
        let secret = match request.request_hash {
            Some(_) => secret(self.keys.token_key(), request, &expires_at.micros().to_be_bytes()),
            None => text.secret,
        };
        let text = DownloadText { secret, ..text.clone() };
        Ok(Some(CreatedLink { text, expires_at, written }))
    }
}
