//! Dead letters: messages that could not be attributed or written, stored with their cause.
//!
//! A repeated dead letter is counted, not stored again. A payload is truncated to 64 KiB; a limited
//! number of dead letters per device and minute is stored (`dead_letter_quota`) and the others are
//! only counted; the oldest are deleted when there are more than [`MAX_DEAD_LETTERS`]. So a hostile
//! sender cannot fill the disk.

use std::collections::BTreeMap;
use std::time::Instant;

use async_recursion::async_recursion as boxed;
use muster_schemas::{Hash, Timestamp, subjects};
use serde::Serialize;
use tokio_postgres::Row;

use crate::error::{ErrorContext, StoreError};
use crate::integers::number;
use crate::log::EventLog;

/// Maximum size of a stored payload, in bytes.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 64 * 1024;
/// Maximum number of stored dead letters.
pub(crate) const MAX_DEAD_LETTERS: i64 = 100_000;
/// Maximum number of dead letters in one statement: 8 MiB.
const MAX_ROWS_PER_STATEMENT: usize = 128;

/// Returns the sender: the device in the subject, which the broker has verified.
fn sender(subject: &str) -> String {
    match subjects::parse_stored(subject) {
        Some(_) => subject.splitn(5, '.').take(4).collect::<Vec<_>>().join("."),
        None => subject.to_owned(),
    }
}

/// A row to write; equal rows of a batch are merged.
struct NewRow<'a> {
    project: Option<&'a str>,
    detail: String,
    bytes: &'a [u8],
    size: i64,
    seen: i64,
}

/// Source of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterSource {
    /// The devices' events.
    Events,
    /// The metric batches.
    Metrics,
}

impl DeadLetterSource {
    /// Returns the value in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Metrics => "metrics",
        }
    }
}

/// A message that could not be processed.
#[derive(Clone, Debug)]
pub struct NewDeadLetter {
    /// Source of the message.
    pub source: DeadLetterSource,
    /// Subject of the message.
    pub subject: String,
    /// Project in the subject, if there is one.
    pub project: Option<String>,
    /// Identifier of the cause: `bad_signature`, `foreign_subject`, `deleted_device` …
    pub cause: &'static str,
    /// Description of the cause.
    pub detail: String,
    /// Payload of the message.
    pub bytes: Vec<u8>,
}

/// A stored dead letter.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Number of the dead letter.
    pub id: i64,
    /// Source of the message.
    pub source: String,
    /// Project in the subject, if there is one.
    pub project: Option<String>,
    /// Subject of the message.
    pub subject: String,
    /// Identifier of the cause.
    pub cause: String,
    /// Description of the cause.
    pub detail: String,
    /// Payload of the message, truncated to 64 KiB.
    pub bytes: Vec<u8>,
    /// Size of the whole payload, in bytes.
    pub size: u64,
    /// Time of the first occurrence.
    pub first_seen: Timestamp,
    /// Time of the last occurrence.
    pub last_seen: Timestamp,
    /// Number of occurrences.
    pub seen: u64,
    /// Time of the last retry.
    pub retried_at: Option<Timestamp>,
}

const COLUMNS: &str = "id, source, project, subject, cause, detail, bytes, size, \
     (extract(epoch FROM first_seen) * 1000000)::bigint, \
     (extract(epoch FROM last_seen) * 1000000)::bigint, seen, \
     (extract(epoch FROM retried_at) * 1000000)::bigint";

/// Replaces NUL characters, which PostgreSQL's text cannot contain.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}").chars().take(1000).collect()
}

fn from_row(row: &Row) -> DeadLetter {
    DeadLetter {
        id: row.get(0),
        source: row.get(1),
        project: row.get(2),
        subject: row.get(3),
        cause: row.get(4),
        detail: row.get(5),
        bytes: row.get(6),
        size: number(row, 7),
        first_seen: Timestamp(row.get(8)),
        last_seen: Timestamp(row.get(9)),
        seen: number(row, 10),
        retried_at: row.get::<_, Option<i64>>(11).map(Timestamp),
    }
}

impl EventLog {
    /// Stores dead letters, and deletes the oldest when there are too many. Messages of a device
    /// beyond 20 per minute are counted in a dead letter without payload.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn store_dead_letters(
        &self,
        dead_letters: &[NewDeadLetter],
    ) -> Result<(), StoreError> {
        for some in dead_letters.chunks(MAX_ROWS_PER_STATEMENT) {
            self.store_batch(some).await?;
        }
        let is_due = self.dead_letter_quota().is_pruning_due(dead_letters.len());
        if is_due {
            self.prune_dead_letters().await?;
        }
        Ok(())
    }

    async fn store_batch(&self, dead_letters: &[NewDeadLetter]) -> Result<(), StoreError> {
        // In a fixed order, so that two processes do not deadlock.
        let mut rows: BTreeMap<(&str, Hash, String, &str), NewRow<'_>> = BTreeMap::new();
        let now = Instant::now();
        for dead_letter in dead_letters {
            let sender = sender(&dead_letter.subject);
            let is_kept = self.dead_letter_quota().take(dead_letter.source.as_str(), &sender, now);
            let (subject, bytes, detail) = if is_kept {
                let kept = dead_letter.bytes.get(..MAX_PAYLOAD_BYTES).unwrap_or(&dead_letter.bytes);
                (&dead_letter.subject, kept, dead_letter.detail.as_str())
            } else {
                (&sender, &[][..], "too many dead letters of this device: counted, not stored")
            };
            let hash = Hash::of(if is_kept { &dead_letter.bytes } else { &[] });
            let size = if is_kept { dead_letter.bytes.len() } else { 0 };
            rows.entry((dead_letter.source.as_str(), hash, text(subject), dead_letter.cause))
                .or_insert_with(|| NewRow {
                    project: dead_letter.project.as_deref(),
                    detail: text(detail),
                    bytes,
                    size: i64::try_from(size).unwrap_or(i64::MAX),
                    seen: 0,
                })
                .seen += 1;
        }
        let (keys, rows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let column = |of: fn(&NewRow<'_>) -> i64| rows.iter().map(of).collect::<Vec<i64>>();
        let (sizes, seen) = (column(|row| row.size), column(|row| row.seen));
        let sources: Vec<&str> = keys.iter().map(|key| key.0).collect();
        let hashes: Vec<&[u8]> = keys.iter().map(|key| key.1.0.as_slice()).collect();
        let subjects: Vec<&str> = keys.iter().map(|key| key.2.as_str()).collect();
        let causes: Vec<&str> = keys.iter().map(|key| key.3).collect();
        let projects: Vec<Option<&str>> = rows.iter().map(|row| row.project).collect();
        let details: Vec<&str> = rows.iter().map(|row| row.detail.as_str()).collect();
        let bytes: Vec<&[u8]> = rows.iter().map(|row| row.bytes).collect();
        let client = self.stores().pool.get().await?;
        let statement = client
            .prepare_cached(
                "INSERT INTO dead_letters AS d
                     (source, project, subject, cause, detail, hash, bytes, size, seen)
                 SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
                     $6::bytea[], $7::bytea[], $8::bigint[], $9::bigint[])
                 ON CONFLICT (source, hash, subject, cause) DO UPDATE
                     SET seen = d.seen + excluded.seen, last_seen = clock_timestamp(),
                         detail = excluded.detail",
            )
            .await
            .while_trying("prepare to store dead letters")?;
        client
            .execute(
                &statement,
                &[
                    &sources, &projects, &subjects, &causes, &details, &hashes, &bytes, &sizes,
                    &seen,
                ],
            )
            .await
            .while_trying("store dead letters")?;
        Ok(())
    }

    /// Returns dead letters, newest first, at most `limit`, with ids below `before`. Without a
    /// project, those of all projects and of none.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
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
            .while_trying("list dead letters")?;
        Ok(rows.iter().map(from_row).collect())
    }

    /// Returns one dead letter.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, StoreError> {
        let client = self.stores().pool.get().await?;
        let sql = format!("SELECT {COLUMNS} FROM dead_letters WHERE id = $1");
        let row = client.query_opt(&sql, &[&id]).await.while_trying("read a dead letter")?;
        Ok(row.as_ref().map(from_row))
    }

    /// Records that a dead letter was retried.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn mark_retried(&self, id: i64) -> Result<(), StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute("UPDATE dead_letters SET retried_at = clock_timestamp() WHERE id = $1", &[&id])
            .await
            .while_trying("record the retry of a dead letter")?;
        Ok(())
    }

    /// Deletes the oldest dead letters beyond 100,000; returns their number.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn prune_dead_letters(&self) -> Result<u64, StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute(
                "DELETE FROM dead_letters WHERE id <=
                     (SELECT id FROM dead_letters ORDER BY id DESC OFFSET $1 LIMIT 1)",
                &[&MAX_DEAD_LETTERS],
            )
            .await
            .while_trying("delete old dead letters")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dead_letter_quota::{DeadLetterQuota, MAX_PER_MINUTE};

    #[test]
    fn a_device_has_one_quota_across_all_its_subjects() {
        let device = "0198c0de-7000-7abc-8def-0123456789ab";
        let live = sender(&format!("met.3.default.{device}.live.host"));
        assert_eq!(live, format!("met.3.default.{device}"));
        assert_eq!(sender(&format!("met.3.default.{device}.backfill")), live);
        assert_eq!(sender("something.else"), "something.else");

        let (mut quota, now) = (DeadLetterQuota::default(), Instant::now());
        let source = DeadLetterSource::Metrics.as_str();
        let kept = (0..100).filter(|_| quota.take(source, &live, now)).count();
        assert_eq!(kept, MAX_PER_MINUTE as usize);
        assert!(quota.take(source, "another", now));
        assert!(quota.take(DeadLetterSource::Events.as_str(), &live, now));
        assert!(!quota.take(source, &live, now + Duration::from_secs(59)));
        assert!(quota.take(source, &live, now + Duration::from_secs(60)));
    }
}
