//! The transaction that a projection writes in.

use bytes::Bytes;
use tokio_postgres::types::ToSql;
use tokio_postgres::{CopyInSink, Error, Row};

/// A transaction whose statements PostgreSQL has parsed once for each connection: a projection says
/// the same few with every batch.
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

    /// COMMIT answers before the disk has it. A crash of PostgreSQL may then undo the newest ones,
    /// whole and in order: what they held is in the log, and is applied again.
    pub(super) async fn does_not_wait_for_the_disk(&self) -> Result<(), Error> {
        self.0.batch_execute("SET LOCAL synchronous_commit = off").await
    }

    /// Asks for rows.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let statement = self.0.prepare_cached(sql).await?;
        self.0.query(&statement, parameters).await
    }

    /// Asks for one row, if there is one.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Error> {
        let statement = self.0.prepare_cached(sql).await?;
        self.0.query_opt(&statement, parameters).await
    }

    /// Changes rows; answers how many.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn execute(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Error> {
        let statement = self.0.prepare_cached(sql).await?;
        self.0.execute(&statement, parameters).await
    }

    /// Begins a `COPY … FROM STDIN`.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn copy_in(&self, sql: &str) -> Result<CopyInSink<Bytes>, Error> {
        let statement = self.0.prepare_cached(sql).await?;
        self.0.copy_in(&statement).await
    }
}
