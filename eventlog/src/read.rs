//! Reads of the log: by position, by stream, by time.

use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use muster_schemas::{Position, ProjectId, StreamName, StreamVersion, Timestamp};
use tokio_postgres::types::ToSql;

use crate::error::{ErrorContext, StoreError};
use crate::integers::{as_i64, number};
use crate::log::EventLog;
use crate::recent::Window;
use crate::stored_event::{COLUMNS, StoredEvent};

/// Filter of a read; the default selects all events.
#[derive(Clone, Debug, Default)]
pub struct ReadFilter {
    /// Only positions after this one.
    pub after: Position,
    /// Only positions up to this one.
    pub until: Option<Position>,
    /// Only these types; all if empty.
    pub kinds: Vec<String>,
}

impl EventLog {
    /// Returns events in the order of the log, at most `limit`.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn read(
        &self,
        project: &ProjectId,
        filter: &ReadFilter,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let until = filter.until.map_or(i64::MAX, as_i64);
        let sql = format!(
            "SELECT {COLUMNS} FROM events
             WHERE project = $1 AND position > $2 AND position <= $3
               AND ($4::text[] IS NULL OR type = ANY($4))
             ORDER BY position LIMIT $5"
        );
        let kinds = (!filter.kinds.is_empty()).then_some(&filter.kinds);
        let project = project.as_str();
        let (after, limit) = (as_i64(filter.after), i64::from(limit));
        self.select(&sql, &[&project, &after, &until, &kinds, &limit]).await
    }

    /// Returns all events after one position and up to another, at most `limit`, from memory if
    /// another reader has read them; `None` if the first of them is older than those in memory.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub(crate) async fn read_recent(
        &self,
        project: &ProjectId,
        after: Position,
        until: Position,
        limit: u32,
    ) -> Result<Option<Vec<Arc<StoredEvent>>>, StoreError> {
        let window = self.inner.recent.of(project);
        // Other readers wait for the same events.
        let mut window = window.lock().await;
        if !window.continues(after) {
            if window.last().is_some_and(|last| after < last) {
                return Ok(None);
            }
            *window = Window::default();
        }
        let read = async |after| {
            let filter = ReadFilter { after, until: Some(until), kinds: Vec::new() };
            self.read(project, &filter, limit).await
        };
        if let Some(newest) = window.last().filter(|newest| until > *newest)
            && !window.extend_after_newest(read(newest.previous()).await?)
        {
            *window = Window::default();
        }
        if window.last().is_none() {
            window.extend(read(after).await?);
        }
        let found = window.between(after, until);
        window.trim();
        Ok(Some(found))
    }

    /// Returns the newest events before a position, newest first, at most `limit`.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn read_backwards(
        &self,
        project: &ProjectId,
        before: Position,
        kinds: &[String],
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM events
             WHERE project = $1 AND position < $2 AND ($3::text[] IS NULL OR type = ANY($3))
             ORDER BY position DESC LIMIT $4"
        );
        let kinds = (!kinds.is_empty()).then_some(kinds);
        let (before, limit) = (as_i64(before), i64::from(limit));
        self.select(&sql, &[&project.as_str(), &before, &kinds, &limit]).await
    }

    /// Returns the events at these positions, in the order of the log.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn read_positions(
        &self,
        project: &ProjectId,
        positions: &[Position],
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let positions: Vec<i64> = positions.iter().copied().map(as_i64).collect();
        let sql = format!(
            "SELECT {COLUMNS} FROM events WHERE project = $1 AND position = ANY($2)
             ORDER BY position"
        );
        self.select(&sql, &[&project.as_str(), &positions]).await
    }

    /// Returns all events of one stream that operators decide (`device/`, `token/`, `name/`),
    /// oldest first. Devices' reports are not indexed by stream: use a projection for them.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn read_stream(
        &self,
        project: &ProjectId,
        stream: &StreamName,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.read_stream_from(project, stream, StreamVersion::ZERO).await
    }

    /// As [`Self::read_stream`], from a version on.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn read_stream_from(
        &self,
        project: &ProjectId,
        stream: &StreamName,
        version: StreamVersion,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM events
             WHERE project = $1 AND stream = $2 AND left(stream, 7) <> 'device-'
               AND stream_version >= $3
             ORDER BY stream_version"
        );
        let version = as_i64(version);
        self.select(&sql, &[&project.as_str(), &stream.to_string(), &version]).await
    }

    /// Returns the first and the newest event of a stream that operators decide; `None` if it is
    /// empty. For streams that grow with use, where these two and the version are sufficient.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn read_stream_ends(
        &self,
        project: &ProjectId,
        stream: &StreamName,
    ) -> Result<Option<(StoredEvent, StoredEvent)>, StoreError> {
        let of_stream = format!(
            "SELECT {COLUMNS} FROM events
             WHERE project = $1 AND stream = $2 AND left(stream, 7) <> 'device-'
             ORDER BY stream_version"
        );
        let sql = format!("({of_stream} LIMIT 1) UNION ALL ({of_stream} DESC LIMIT 1)");
        let mut ends = self.select(&sql, &[&project.as_str(), &stream.to_string()]).await?;
        ends.sort_by_key(|event| event.stream_version);
        let newest = ends.pop();
        Ok(newest.map(|newest| (ends.pop().unwrap_or_else(|| newest.clone()), newest)))
    }

    /// Returns the events of these types, all if empty, in many such streams, each stream's oldest
    /// first.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn read_streams(
        &self,
        project: &ProjectId,
        streams: &[StreamName],
        kinds: &[&str],
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let streams: Vec<String> = streams.iter().map(ToString::to_string).collect();
        let sql = format!(
            "SELECT {COLUMNS} FROM events
             WHERE project = $1 AND stream = ANY($2) AND left(stream, 7) <> 'device-'
               AND ($3::text[] IS NULL OR type = ANY($3))
             ORDER BY stream, stream_version"
        );
        let kinds = (!kinds.is_empty()).then_some(kinds);
        self.select(&sql, &[&project.as_str(), &streams, &kinds]).await
    }

    /// Returns the newest version of a stream; 0 if it does not exist.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn stream_version(
        &self,
        project: &ProjectId,
        stream: &StreamName,
    ) -> Result<StreamVersion, StoreError> {
        let client = self.readers().get().await?;
        let statement = client
            .prepare_cached("SELECT version FROM streams WHERE project = $1 AND stream = $2")
            .await
            .while_trying("prepare to read a stream's version")?;
        let row = client
            .query_opt(&statement, &[&project.as_str(), &stream.to_string()])
            .await
            .while_trying("read a stream's version")?;
        Ok(row.map_or(StreamVersion::ZERO, |row| number(&row, 0)))
    }

    /// Returns the newest position that was recorded at or before a time; 0 if there is none.
    ///
    /// `recorded_at` never decreases, so a binary search over positions finds it.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn position_at(
        &self,
        project: &ProjectId,
        time: Timestamp,
    ) -> Result<Position, StoreError> {
        let Some(head) = self.head(project).await? else {
            return Ok(Position::ZERO);
        };
        let client = self.readers().get().await?;
        let statement = client
            .prepare_cached(
                "SELECT (extract(epoch FROM recorded_at) * 1000000)::bigint FROM events
                 WHERE project = $1 AND position = $2",
            )
            .await
            .while_trying("prepare to look up a time")?;
        let (mut low, mut high) = (Position::ZERO, head.position);
        while low < high {
            let middle = low + high.since(low).div_ceil(2);
            let row = client
                .query_one(&statement, &[&project.as_str(), &as_i64(middle)])
                .await
                .while_trying("look up a time")?;
            if row.get::<_, i64>(0) <= time.micros() {
                low = middle;
            } else {
                high = middle.previous();
            }
        }
        Ok(low)
    }

    async fn select(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let client = self.readers().get().await?;
        let statement = client.prepare_cached(sql).await.while_trying("prepare to read the log")?;
        let rows = client.query(&statement, params).await.while_trying("read the log")?;
        rows.iter().map(StoredEvent::from_row).collect()
    }
}
