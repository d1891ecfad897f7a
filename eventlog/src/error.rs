//! The error of the store: PostgreSQL is unreachable, or a statement failed.

/// A failed access to PostgreSQL. The message names the attempted operation, the source the cause.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection is available.
    #[error("failed to get a connection to PostgreSQL")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A statement failed.
    #[error("failed to {attempted}")]
    Query {
        /// Attempted operation.
        attempted: &'static str,
        /// Error of PostgreSQL.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A statement through sqlx failed.
    #[error("failed to {attempted}")]
    Sqlx {
        /// Attempted operation.
        attempted: &'static str,
        /// Error of PostgreSQL.
        #[source]
        source: sqlx::Error,
    },
    /// A migration failed.
    #[error("failed to migrate the database")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Migrations are missing, and this database user may not run them.
    #[error(
        "{0} migrations are missing and this database user may not run them; run `muster bootstrap` with the URL of the database's owner"
    )]
    NotMigrated(usize),
    /// A listener for notifications failed.
    #[error("failed to listen for new events")]
    Listen(#[source] sqlx::Error),
    /// The database URL is invalid.
    #[error(
        "the database URL is not usable: {0}; write it as postgres://user:password@host:port/database, or postgresql:///database?host=/run/postgresql&user=user for a Unix socket"
    )]
    Url(String),
    /// A failure that several callers share.
    #[error(transparent)]
    Shared(std::sync::Arc<StoreError>),
    /// A stored row has an unexpected content.
    #[error("{0}")]
    Corrupt(String),
    /// The appender's task has ended, which happens only while the process stops.
    #[error("the event log is shutting down")]
    ShuttingDown,
}

impl StoreError {
    /// Adds the attempted operation to an error of sqlx: `.map_err(StoreError::sqlx("read devices"))`.
    pub fn sqlx(attempted: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Sqlx { attempted, source }
    }

    /// Adds the attempted operation to an error of a projection's [`Transaction`].
    ///
    /// [`Transaction`]: crate::projection::Transaction
    pub fn query(attempted: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Query { attempted, source }
    }

    /// Whether PostgreSQL is unavailable, so that a retry can succeed.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Connect(_) | Self::ShuttingDown => true,
            // Without an error from PostgreSQL, the connection was lost.
            Self::Query { source, .. } => source.as_db_error().is_none_or(|error| {
                use tokio_postgres::error::SqlState;
                let state = error.code();
                *state == SqlState::ADMIN_SHUTDOWN
                    || *state == SqlState::CRASH_SHUTDOWN
                    || *state == SqlState::CANNOT_CONNECT_NOW
            }),
            Self::Shared(error) => error.is_unavailable(),
            _ => false,
        }
    }

    /// Whether the database's disk is full, so that it cannot write.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let full = tokio_postgres::error::SqlState::DISK_FULL;
        match self {
            Self::Query { source, .. } => source.code() == Some(&full),
            Self::Sqlx { source, .. } => source
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code)
                .is_some_and(|code| code == full.code()),
            Self::Shared(error) => error.is_disk_full(),
            _ => false,
        }
    }

    /// Whether the query was canceled because it exceeded its time limit.
    #[must_use]
    pub fn is_query_timeout(&self) -> bool {
        match self {
            Self::Query { source, .. } => {
                source.code() == Some(&tokio_postgres::error::SqlState::QUERY_CANCELED)
            }
            Self::Shared(error) => error.is_query_timeout(),
            _ => false,
        }
    }
}

/// Adds the attempted operation to an error: `query(…).await.while_trying("read the log")?`.
pub trait ErrorContext<T> {
    /// Converts the error.
    ///
    /// # Errors
    /// When the statement failed.
    fn while_trying(self, operation: &'static str) -> Result<T, StoreError>;
}

impl<T> ErrorContext<T> for Result<T, tokio_postgres::Error> {
    fn while_trying(self, what: &'static str) -> Result<T, StoreError> {
        self.map_err(StoreError::query(what))
    }
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        Self::Connect(Box::new(error))
    }
}
