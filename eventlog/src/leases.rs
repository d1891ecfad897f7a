//! Leases: one process at a time does a piece of work. Each lease has a higher fence than the
//! previous one, so that a process whose lease was lost can no longer write.

use std::time::Duration;

use async_recursion::async_recursion as boxed;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::append::{AppendError, OffsetMove};
use crate::error::{ErrorContext, StoreError};
use crate::integers::{as_i64, number};
use crate::log::EventLog;

/// A time-limited right to do a piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Name of the work.
    pub name: String,
    /// Process that holds it.
    pub holder: Uuid,
    /// Fence, higher than that of all previous leases of this work.
    pub fence: i64,
}

/// Progress of a reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offset {
    /// Incarnation of the JetStream stream that was read.
    pub incarnation: String,
    /// Newest sequence number that was processed; 0 if there is none.
    pub sequence: u64,
}

/// Incarnation of the stream that was created at this time, in nanoseconds since the Unix epoch.
#[must_use]
pub fn incarnation(created: i128) -> String {
    created.to_string()
}

/// Name of the lease and of the offset of a partition of the events.
#[must_use]
pub fn events_reader(partition: u32) -> String {
    format!("events-{partition}")
}

impl EventLog {
    /// Acquires the lease if it is free or expired; `None` while another process holds it.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn acquire_lease(
        &self,
        name: &str,
        holder: Uuid,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let client = self.stores().pool.get().await?;
        let seconds = ttl.as_secs_f64();
        let row = client
            .query_opt(
                "INSERT INTO leases AS l (name, holder, fence, expires_at)
                 VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 second')
                 ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, fence = l.fence + 1,
                     expires_at = excluded.expires_at
                 WHERE l.expires_at < clock_timestamp()
                 RETURNING fence",
                &[&name, &holder, &seconds],
            )
            .await
            .while_trying("acquire a lease")?;
        Ok(row.map(|row| Lease { name: name.to_owned(), holder, fence: row.get(0) }))
    }

    /// Renews leases; returns the names of those that are still held.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn renew_leases(
        &self,
        holder: Uuid,
        names: &[String],
        ttl: Duration,
    ) -> Result<Vec<String>, StoreError> {
        let client = self.stores().pool.get().await?;
        let seconds = ttl.as_secs_f64();
        let rows = client
            .query(
                "UPDATE leases SET expires_at = clock_timestamp() + $3 * interval '1 second'
                 WHERE holder = $1 AND name = ANY($2) AND expires_at >= clock_timestamp()
                 RETURNING name",
                &[&holder, &names, &seconds],
            )
            .await
            .while_trying("renew leases")?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Releases all leases of a holder, so that other processes need not wait until they expire.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn release_leases(&self, holder: Uuid) -> Result<(), StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute(
                "UPDATE leases SET expires_at = clock_timestamp() - interval '1 second'
                 WHERE holder = $1",
                &[&holder],
            )
            .await
            .while_trying("release leases")?;
        Ok(())
    }

    /// Releases one lease.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn release_lease(&self, name: &str, holder: Uuid) -> Result<(), StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute(
                "UPDATE leases SET expires_at = clock_timestamp() - interval '1 second'
                 WHERE name = $1 AND holder = $2",
                &[&name, &holder],
            )
            .await
            .while_trying("release a lease")?;
        Ok(())
    }

    /// Returns the holders of the current leases whose names start with `prefix`.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn list_leases(&self, prefix: &str) -> Result<Vec<(String, Uuid)>, StoreError> {
        let client = self.stores().pool.get().await?;
        let rows = client
            .query(
                "SELECT name, holder FROM leases
                 WHERE starts_with(name, $1) AND expires_at >= clock_timestamp() ORDER BY name",
                &[&prefix],
            )
            .await
            .while_trying("list leases")?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Returns a reader's offset; the default if it has none yet.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn offset(&self, name: &str) -> Result<Offset, StoreError> {
        let client = self.stores().pool.get().await?;
        let row = client
            .query_opt("SELECT incarnation, sequence FROM offsets WHERE name = $1", &[&name])
            .await
            .while_trying("read a reader's offset")?;
        Ok(row.map(|row| read_offset(&row)).unwrap_or_default())
    }

    /// Advances a reader's offset without an append.
    ///
    /// # Errors
    /// [`AppendError::Fenced`] when a later lease has already taken over; otherwise when PostgreSQL
    /// is unreachable or the statement fails.
    #[boxed]
    pub async fn advance_offset(&self, to: &OffsetMove) -> Result<(), AppendError> {
        let client = self.stores().pool.get().await.map_err(StoreError::from)?;
        let moved = client
            .execute(
                "UPDATE offsets SET sequence = $3, incarnation = $2
                 WHERE name = $1 AND fence = $4",
                &[&to.name, &to.incarnation, &as_i64(to.sequence), &to.fence],
            )
            .await
            .while_trying("advance a reader's offset")?;
        if moved == 0 { Err(AppendError::Fenced(to.name.clone())) } else { Ok(()) }
    }

    /// Returns a reader's offset, which only the holder of this lease can advance from now on.
    ///
    /// # Errors
    /// [`AppendError::Fenced`] when a later lease has already taken over; otherwise when PostgreSQL
    /// is unreachable or the statement fails.
    #[boxed]
    pub async fn take_over_offset(&self, lease: &Lease) -> Result<Offset, AppendError> {
        let client = self.stores().pool.get().await.map_err(StoreError::from)?;
        let row = client
            .query_opt(
                "INSERT INTO offsets AS o (name, fence) VALUES ($1, $2)
                 ON CONFLICT (name) DO UPDATE SET fence = excluded.fence
                 WHERE o.fence <= excluded.fence
                 RETURNING incarnation, sequence",
                &[&lease.name, &lease.fence],
            )
            .await
            .while_trying("take over a reader's offset")?
            .ok_or_else(|| AppendError::Fenced(lease.name.clone()))?;
        Ok(read_offset(&row))
    }
}

fn read_offset(row: &Row) -> Offset {
    Offset { incarnation: row.get(0), sequence: number(row, 1) }
}
