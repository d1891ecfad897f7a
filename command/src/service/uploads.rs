//! Uploaded files: accepted from devices, erased, shared by a download link.

use muster_api::blobs::{BlobError, key};
use muster_eventlog::{Append, AppendError, Expected, NewEvent};
use muster_schemas::cose::Kind;
use muster_schemas::events::{Action, EraseCause, Upload};
use muster_schemas::wire::{DownloadText, FileStored, OutputStream};
use muster_schemas::{DeviceId, Event, Hash, OperationId, ProjectId, StreamName, Timestamp, codec};

use super::{Request, Service, ServiceError, Written, now, until_appended};
use crate::domain::operation::Operation;
use crate::domain::run::{Run, RunCommand};
use crate::domain::{Decider, Rejection};

/// Actor of events that no operator requested.
const ACTOR: &str = "role:command";

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

impl Service {
    /// Returns the request of a device's upload; `None` when the operation is not an upload.
    async fn requested_upload(
        &self,
        project: &ProjectId,
        operation: OperationId,
    ) -> Result<Option<Upload>, ServiceError> {
        let found = self.load::<Operation>(project, &StreamName::Operation(operation)).await?;
        Ok(found.state.requested.and_then(|requested| match requested.action {
            Action::Upload(upload) => Some(upload),
            _ => None,
        }))
    }

    /// Returns the maximum size of this device's file, or why it is refused.
    pub(super) async fn requested_file_limit(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: DeviceId,
    ) -> Result<Result<u64, &'static str>, ServiceError> {
        let Some(upload) = self.requested_upload(project, operation).await? else {
            return Ok(Err("the operation does not request a file"));
        };
        let run = self.load::<Run>(project, &StreamName::Run(operation, device)).await?.state;
        Ok(match (run.is_requested, run.is_erased) {
            (false, _) => Err("it was never requested from this device"),
            (true, true) => Err("the server has erased it"),
            (true, false) => Ok(upload.limit()),
        })
    }

    /// Returns the signed receipt that the server has all of a file.
    pub(super) fn file_receipt(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: DeviceId,
        bytes: u64,
    ) -> Result<Vec<u8>, ServiceError> {
        let stored = FileStored { project: project.clone(), device, operation, bytes };
        let key = self.keys.operation_key(project)?;
        Ok(key.seal(Kind::Stored, codec::encode(&stored)))
    }

    async fn change_file(
        &self,
        request: &Request,
        operation: OperationId,
        device: DeviceId,
        command: RunCommand,
    ) -> Result<Written, ServiceError> {
        if self.requested_upload(&request.project, operation).await?.is_none() {
            return Err(Rejection::NotFound("upload").into());
        }
        let stream = StreamName::Run(operation, device);
        until_appended!({
            let loaded = self.load::<Run>(&request.project, &stream).await?;
            let events = loaded.state.decide(command.clone())?;
            let version = loaded.version + events.len() as u64;
            let parts = vec![(stream.clone(), loaded.version, events)];
            self.try_append(request, parts).await?.map(|position| Written { version, position })
        })
    }

    /// Erases a stored file; an upload in progress is refused. What cannot be erased
    /// now is erased later (`uploads::keeper`).
    ///
    /// # Errors
    /// When the upload does not exist, or the log cannot be used.
    pub async fn erase_upload(
        &self,
        request: &Request,
        operation: OperationId,
        device: DeviceId,
        cause: EraseCause,
    ) -> Result<Written, ServiceError> {
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
    ) -> Result<(), ServiceError> {
        self.append_automatic(project, operation, device, RunCommand::Erase(cause)).await?;
        self.erase_now(project, operation, device).await;
        Ok(())
    }

    /// Erases a file whose erasure is in the log: no further piece of it is accepted.
    async fn erase_now(&self, project: &ProjectId, operation: OperationId, device: DeviceId) {
        self.outputs.remove(project, operation, device);
        if let Err(error) = self.erase_file(project, operation, device).await {
            let error = muster_api::problem::describe(&error);
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

    /// Appends events that no operator requested.
    async fn append_automatic(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: DeviceId,
        command: RunCommand,
    ) -> Result<(), ServiceError> {
        let stream = StreamName::Run(operation, device);
        until_appended!({
            let loaded = self.load::<Run>(project, &stream).await?;
            let at = now();
            let events = loaded.state.decide(command.clone())?;
            let events: Vec<_> = events.iter().map(|event| NewEvent::server(event, at)).collect();
            if events.is_empty() {
                return Ok(());
            }
            let append = Append { correlation: Some(operation.0), ..Append::by_actor(ACTOR) };
            let append = append.stream(stream.clone(), Expected::Version(loaded.version), events);
            match self.log.append(project, append).await {
                Ok(_) => Some(()),
                Err(AppendError::Conflict { .. }) => None,
                Err(error) => return Err(error.into()),
            }
        })
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
    ) -> Result<CreatedLink, ServiceError> {
        let secret = self.secret(request, &expires_at.micros().to_be_bytes());
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
    ) -> Result<Option<CreatedLink>, ServiceError> {
        let Some((appended, events)) = self.first_result(request).await? else { return Ok(None) };
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
            Some(_) => self.secret(request, &expires_at.micros().to_be_bytes()),
            None => text.secret,
        };
        let text = DownloadText { secret, ..text.clone() };
        Ok(Some(CreatedLink { text, expires_at, written }))
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
        let reason = format!("the server's blob store rejects writes: {}", root_cause(error));
        let command = RunCommand::Stall { bytes, reason };
        if let Err(error) = self.append_automatic(project, operation, device, command).await {
            tracing::debug!(%operation, %device, %error, "failed to record that an upload stalls");
        }
    }
}

/// Returns the innermost cause: it contains no path of the server.
fn root_cause(error: &BlobError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
