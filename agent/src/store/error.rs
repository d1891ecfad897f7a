//! Why the data folder could not be read or written.

use std::io;
use std::path::PathBuf;

/// Something about the data folder.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be made, read or written.
    #[error("failed to {attempted} {}", path.display())]
    File {
        /// What was being done.
        attempted: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another agent has the folder.
    #[error(
        "another agent runs on {}; stop it first, or give this one a folder of its own (--data)",
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
        /// Its owner.
        owner: u32,
        /// The user that the agent runs as.
        user: u32,
    },
    /// The folder is open to others and holds files of other programs.
    #[error(
        "{} is open to other users (mode {mode:o}) and holds files of other programs; give the agent a folder of its own (--data), or close this one: chmod 700 {}",
        path.display(), path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Written by a newer agent.
    #[error(
        "{} has format {found}, and this agent knows formats up to {known}; install a newer agent",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// The database failed.
    #[error("failed to {attempted} in the agent's database")]
    Database {
        /// What was being done.
        attempted: &'static str,
        /// Why it failed.
        source: Box<redb::Error>,
    },
    /// Something that was stored cannot be read.
    #[error(
        "{what} in the agent's database cannot be read ({problem}); restore the folder from a backup, or enroll again with --force"
    )]
    Damaged {
        /// What.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl StoreError {
    /// Wraps a failure of the database; for `map_err`.
    pub(crate) fn database<E: Into<redb::Error>>(
        attempted: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Database { attempted, source: Box::new(source.into()) }
    }

    /// Must the database be opened again before it takes anything?
    pub(crate) fn is_io(&self) -> bool {
        matches!(self, Self::Database { source, .. }
            if matches!(**source, redb::Error::Io(_) | redb::Error::PreviousIo))
    }
}
