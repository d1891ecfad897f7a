//! Dead letters: what could not be attributed or written, kept with its cause.
//!
//! The same letter seen again is counted, not kept twice. A letter's bytes are cut at
//! 64 KiB, and the oldest letters go when there are more than [`MAX_LETTERS`], so that a
//! hostile sender cannot fill the disk.

use muster_schemas::{Hash, Timestamp};
use serde::Serialize;
use tokio_postgres::Row;

use crate::error::{Attempted, StoreError};
use crate::log::EventLog;

/// The most bytes that are kept of one letter.
pub(crate) const MAX_BYTES: usize = 64 * 1024;
/// The most letters that are kept.
pub(crate) const MAX_LETTERS: i64 = 100_000;

/// Where a dead letter was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterSource {
    /// Among the devices' events.
    Events,
    /// Among the metric batches.
    Metrics,
}

impl DeadLetterSource {
    /// As it stands in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Metrics => "metrics",
        }
    }
}

/// A message that could not be dealt with.
#[derive(Clone, Debug)]
pub struct NewDeadLetter {
    /// Where it was found.
    pub source: DeadLetterSource,
    /// The subject that it came on.
    pub subject: String,
    /// The project in the subject, where there is one.
    pub project: Option<String>,
    /// A short word for the cause: `bad_signature`, `foreign_subject`, `deleted_device` …
    pub cause: &'static str,
    /// The cause in full.
    pub detail: String,
    /// The message.
    pub bytes: Vec<u8>,
}

/// A dead letter as it is kept.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// Where it was found.
    pub source: String,
    /// The project in the subject, where there is one.
    pub project: Option<String>,
    /// The subject that it came on.
    pub subject: String,
    /// A short word for the cause.
    pub cause: String,
    /// The cause in full.
    pub detail: String,
    /// The message; cut when it is longer than 64 KiB.
    pub bytes: Vec<u8>,
    /// The length of the whole message.
    pub size: u64,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// How often it was seen.
    pub seen: u64,
    /// When it was last tried again.
    pub retried_at: Option<Timestamp>,
}

const COLUMNS: &str = "id, source, project, subject, cause, detail, bytes, size, \
     (extract(epoch FROM first_seen) * 1000000)::bigint, \
     (extract(epoch FROM last_seen) * 1000000)::bigint, seen, \
     (extract(epoch FROM retried_at) * 1000000)::bigint";

fn from_row(row: &Row) -> DeadLetter {
    DeadLetter {
        id: row.get(0),
        source: row.get(1),
        project: row.get(2),
        subject: row.get(3),
        cause: row.get(4),
        detail: row.get(5),
        bytes: row.get(6),
        size: row.get::<_, i64>(7).unsigned_abs(),
        first_seen: Timestamp(row.get(8)),
        last_seen: Timestamp(row.get(9)),
        seen: row.get::<_, i64>(10).unsigned_abs(),
        retried_at: row.get::<_, Option<i64>>(11).map(Timestamp),
    }
}

impl EventLog {
    /// Keeps dead letters.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn keep_dead_letters(&self, letters: &[NewDeadLetter]) -> Result<(), StoreError> {
        if letters.is_empty() {
            return Ok(());
        }
        let client = self.stores().pool.get().await?;
        let statement = client
            .prepare_cached(
                "INSERT INTO dead_letters AS d
                     (source, project, subject, cause, detail, hash, bytes, size)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (source, hash, subject, cause) DO UPDATE SET seen = d.seen + 1,
                     last_seen = clock_timestamp(), detail = excluded.detail",
            )
            .await
            .attempted("prepare to keep a dead letter")?;
        for letter in letters {
            let kept = letter.bytes.get(..MAX_BYTES).unwrap_or(&letter.bytes);
            let size = i64::try_from(letter.bytes.len()).unwrap_or(i64::MAX);
            let hash = Hash::of(&letter.bytes);
            // PostgreSQL's text cannot hold a NUL.
            let text = |text: &str| text.replace('\0', "\u{fffd}").chars().take(1000).collect();
            let (subject, detail): (String, String) = (text(&letter.subject), text(&letter.detail));
            client
                .execute(
                    &statement,
                    &[
                        &letter.source.as_str(),
                        &letter.project,
                        &subject,
                        &letter.cause,
                        &detail,
                        &hash.0.as_slice(),
                        &kept,
                        &size,
                    ],
                )
                .await
                .attempted("keep a dead letter")?;
        }
        Ok(())
    }

    /// Dead letters, the newest first, at most `limit`, with ids below `before`. Without a project,
    /// those of all projects and of none.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn list_dead_letters(
        &self,
        project: Option<&str>,
        before: i64,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let client = self.stores().pool.get().await?;
        let sql = format!(
            "SELECT {COLUMNS} FROM dead_letters
             WHERE id < $2 AND ($1::text IS NULL OR project = $1) ORDER BY id DESC LIMIT $3"
        );
        let rows = client
            .query(&sql, &[&project, &before, &i64::from(limit)])
            .await
            .attempted("list dead letters")?;
        Ok(rows.iter().map(from_row).collect())
    }

    /// One dead letter.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, StoreError> {
        let client = self.stores().pool.get().await?;
        let sql = format!("SELECT {COLUMNS} FROM dead_letters WHERE id = $1");
        let row = client.query_opt(&sql, &[&id]).await.attempted("read a dead letter")?;
        Ok(row.as_ref().map(from_row))
    }

    /// Notes that a dead letter was sent on its way again.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn mark_retried(&self, id: i64) -> Result<(), StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute("UPDATE dead_letters SET retried_at = clock_timestamp() WHERE id = $1", &[&id])
            .await
            .attempted("mark a dead letter")?;
        Ok(())
    }

    /// Deletes the oldest dead letters beyond 100,000; answers how many.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn prune_dead_letters(&self) -> Result<u64, StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute(
                "DELETE FROM dead_letters WHERE id <=
                     (SELECT id FROM dead_letters ORDER BY id DESC OFFSET $1 LIMIT 1)",
                &[&MAX_LETTERS],
            )
            .await
            .attempted("delete old dead letters")
    }
}
