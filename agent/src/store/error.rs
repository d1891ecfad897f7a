//! Errors of the data folder.

use std::io;
use std::path::PathBuf;

use muster_files::WriteError;

/// The reason why the data folder could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be created, read or written.
    #[error("failed to {attempted} {}", path.display())]
    File {
        /// The attempted action.
        attempted: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another agent uses the folder.
    #[error(
        "another agent uses {}; stop it, or use another folder (--data)",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder belongs to another user.
    #[error(
        "{} belongs to user id {owner}, who could replace its files; try: chown {user} {}, or another folder (--data)",
        path.display(), path.display()
    )]
    OtherOwner {
        /// The folder.
        path: PathBuf,
        /// Owner of the folder.
        owner: u32,
        /// User that the agent runs as.
        user: u32,
    },
    /// The folder is open to others and contains files of other programs.
    #[error(
        "{} is accessible to other users (mode {mode:o}) and contains files of other programs; \
         use a separate folder (--data), or restrict this one: chmod 700 {}",
        path.display(), path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Mode of the folder.
        mode: u32,
    },
    /// A newer agent has written the database.
    #[error(
        "{} has format {found}, and this agent supports formats up to {known}; install a newer \
         agent",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Format of the database.
        found: u32,
        /// The newest supported format.
        known: u32,
    },
    /// The database failed.
    #[error("failed to {attempted} in the agent's database")]
    Database {
        /// The attempted action.
        attempted: &'static str,
        /// The cause.
        source: Box<redb::Error>,
    },
    /// A stored value cannot be decoded.
    #[error(
        "{what} in the agent's database is invalid ({problem}); restore the folder from a backup, \
         or enroll again with --force"
    )]
    Damaged {
        /// The value.
        what: &'static str,
        /// The problem of the value.
        problem: String,
    },
}

impl StoreError {
    /// Wraps a failure of the database; for `map_err`.
    pub(crate) fn database<E: Into<redb::Error>>(
        operation: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Database { attempted: operation, source: Box::new(source.into()) }
    }

    /// Whether the database must be opened again before it accepts writes.
    pub(crate) fn is_io(&self) -> bool {
        matches!(self, Self::Database { source, .. }
            if matches!(**source, redb::Error::Io(_) | redb::Error::PreviousIo))
    }
}

impl From<WriteError> for StoreError {
    fn from(WriteError { path, source }: WriteError) -> Self {
        Self::File { attempted: "write", path, source }
    }
}
