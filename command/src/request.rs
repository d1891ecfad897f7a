//! A request to change something, and the result of the write.

use muster_schemas::{Hash, Position, ProjectId, StreamVersion};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::CommandError;

/// The actor, the project and the preconditions of a request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Project of the request.
    pub project: ProjectId,
    /// Actor of the request: `token:<id>`, `device:<id>` …
    pub actor: String,
    /// Append id: the same for each retry.
    pub append_id: Uuid,
    /// Whether an earlier attempt may have been appended with the same id.
    pub may_be_repeated: bool,
    /// Hash of the body, when the client sent an `Idempotency-Key`.
    pub request_hash: Option<Hash>,
    /// Versions of the resource that the client expects; any when `None`.
    pub versions: Option<Vec<StreamVersion>>,
    /// Whether a `PUT` requires that the resource exists (`If-Match`), or that it does not
    /// (`If-None-Match: *`).
    pub exists: Option<bool>,
}

impl Request {
    /// Creates a request without preconditions.
    pub(crate) const fn unconditional(project: ProjectId, actor: String, append_id: Uuid) -> Self {
        let (request_hash, versions, exists) = (None, None, None);
        Self { project, actor, append_id, may_be_repeated: true, request_hash, versions, exists }
    }

    /// Returns the request for one of the resources of a bulk write. Its append id is the same for
    /// each retry.
    pub(crate) fn part(&self, resource: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"muster/bulk-part/v1");
        hasher.update(self.append_id.as_bytes());
        hasher.update(resource);
        let digest: [u8; 32] = hasher.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(digest.split_at(16).0);
        let append_id = uuid::Builder::from_custom_bytes(id).into_uuid();
        Self { append_id, ..self.clone() }
    }

    /// Compares whether the resource exists with what the client requires.
    pub(crate) const fn check_exists(&self, exists: bool) -> Result<(), CommandError> {
        match self.exists {
            Some(required) if required != exists => Err(CommandError::Existence { exists }),
            _ => Ok(()),
        }
    }

    /// Compares the version that the client expects with the resource's.
    pub(crate) fn check_version(&self, version: StreamVersion) -> Result<(), CommandError> {
        match &self.versions {
            Some(versions) if !versions.contains(&version) => {
                Err(CommandError::VersionMismatch(version))
            }
            _ => Ok(()),
        }
    }
}

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Newest version of the resource's own stream.
    pub version: StreamVersion,
    /// Position of the newest event; the end of the log when nothing had to change.
    pub position: Position,
}
