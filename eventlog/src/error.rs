//! The one error of the store: PostgreSQL could not be asked, or said no.

/// PostgreSQL could not do what was asked of it. What was attempted is named; the source tells why.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection could be had.
    #[error("failed to get a connection to PostgreSQL")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A statement failed.
    #[error("failed to {attempted}")]
    Query {
        /// What was being done.
        attempted: &'static str,
        /// PostgreSQL's own words.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A migration failed.
    #[error("failed to migrate the database")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A listener failed.
    #[error("failed to listen for new events")]
    Listen(#[source] sqlx::Error),
    /// The database URL cannot be used.
    #[error(
        "the database URL is not usable: {0}; write it as postgres://user:password@host:port/database"
    )]
    Url(String),
    /// A stored row is not what this code stores.
    #[error("{0}")]
    Corrupt(String),
    /// The appender's task is gone, which only happens while the process stops.
    #[error("the event log is shutting down")]
    ShuttingDown,
}

/// Names what was attempted: `query(…).await.attempted("read the log")?`.
pub(crate) trait Attempted<T> {
    fn attempted(self, what: &'static str) -> Result<T, StoreError>;
}

impl<T> Attempted<T> for Result<T, tokio_postgres::Error> {
    fn attempted(self, what: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Query { attempted: what, source })
    }
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        Self::Connect(Box::new(error))
    }
}
