//! Errors of the key folder.

use std::path::{Path, PathBuf};

use muster_files::WriteError;

use super::nats_jwt;

/// A key could not be read or created.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file could not be read or written.
    #[error("failed to {attempted} {}", path.display())]
    File {
        /// The failed action.
        attempted: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        source: std::io::Error,
    },
    /// A file contains no key.
    #[error(
        "{} contains no usable key ({problem}); restore it from a backup: a new key would lock all \
         devices out", path.display()
    )]
    Unusable {
        /// Path of the file.
        path: PathBuf,
        /// Problem of its content.
        problem: String,
    },
    /// A folder of secrets belongs to another user.
    #[error("{} belongs to user id {owner}, who could replace its files; try: chown {user} {}, or another folder", path.display(), path.display())]
    OtherOwner {
        /// Path of the folder.
        path: PathBuf,
        /// Id of its owner.
        owner: u32,
        /// Id of the user that this process runs as.
        user: u32,
    },
    /// A folder or file of secrets is accessible to others.
    #[error(
        "{} is accessible to other users (mode {mode:o}), and their access cannot be removed \
         ({problem}); try: chmod -R go= {}, as its owner, or another \
         folder", path.display(), path.display()
    )]
    OpenToOthers {
        /// Path of the folder or file.
        path: PathBuf,
        /// Mode of the folder or file.
        mode: u32,
        /// Why their access cannot be removed.
        problem: String,
    },
    /// A JWT could not be created.
    #[error(transparent)]
    Jwt(#[from] nats_jwt::JwtError),
    /// A certificate could not be created.
    #[error("failed to create a certificate")]
    Certificate(#[from] rcgen::Error),
}

impl From<WriteError> for KeyError {
    fn from(WriteError { path, source }: WriteError) -> Self {
        Self::File { attempted: "write", path, source }
    }
}

pub(super) fn unusable(path: &Path, problem: impl Into<String>) -> KeyError {
    KeyError::Unusable { path: path.to_owned(), problem: problem.into() }
}
