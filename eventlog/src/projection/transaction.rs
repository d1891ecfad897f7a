//! The transaction of a projection.

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use tokio_postgres::types::ToSql;
use tokio_postgres::{CopyInSink, Error, Row};

/// A transaction with prepared statements that are cached per connection: a projection uses the
/// same few in every batch.
pub struct Transaction<'a>(deadpool_postgres::Transaction<'a>);

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Transaction")
    }
}

impl<'a> Transaction<'a> {
    pub(super) const fn new(transaction: deadpool_postgres::Transaction<'a>) -> Self {
        Self(transaction)
    }

    pub(super) async fn commit(self) -> Result<(), Error> {
        self.0.commit().await
    }

    /// Makes COMMIT return before the data is on the disk. A crash of PostgreSQL may then lose the
    /// newest transactions, entirely and in order: their events are in the log, and are applied
    /// again.
    #[boxed]
    pub(super) async fn disable_synchronous_commit(&self) -> Result<(), Error> {
        self.0.batch_execute("SET LOCAL synchronous_commit = off").await
    }

    /// Queries rows.
    ///
    /// # Errors
    /// The error of PostgreSQL.
    #[boxed]
    pub async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let statement = self.0.prepare_cached(sql).await?;
        self.0.query(&statement, parameters).await
    }

    /// Queries at most one row.
    ///
    /// # Errors
    /// The error of PostgreSQL.
    #[boxed]
    pub async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Error> {
        let statement = self.0.prepare_cached(sql).await?;
        self.0.query_opt(&statement, parameters).await
    }

    /// Changes rows; returns their number.
    ///
    /// # Errors
    /// The error of PostgreSQL.
    #[boxed]
    pub async fn execute(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Error> {
        let statement = self.0.prepare_cached(sql).await?;
        self.0.execute(&statement, parameters).await
    }

    /// Starts a `COPY … FROM STDIN`.
    ///
    /// # Errors
    /// The error of PostgreSQL.
    #[boxed]
    pub async fn copy_in(&self, sql: &str) -> Result<CopyInSink<Bytes>, Error> {
        let statement = self.0.prepare_cached(sql).await?;
        self.0.copy_in(&statement).await
    }
}
