//! A separate PostgreSQL with the settings of production, its log, and plain COPY for comparison.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, TryStreamExt};
use muster_backing::postgres::{Postgres, PostgresOptions};
use muster_eventlog::{ConnectOptions, EventLog, LogOptions};
use muster_schemas::ProjectId;
use tempfile::TempDir;

const COLUMNS: &str = "position, stream, stream_version, type, schema_version, occurred_at, \
     recorded_at, actor, correlation, causation, record, salt";

/// The server, and a client that the log does not use.
pub(crate) struct LogServer {
    pub(crate) log: EventLog,
    postgres: Postgres,
    client: tokio_postgres::Client,
    _dir: TempDir,
}

impl LogServer {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let postgres = Postgres::start(PostgresOptions::new(dir.path())).await.unwrap();
        let (client, connection) =
            tokio_postgres::connect(&postgres.connection_url(), tokio_postgres::NoTls)
                .await
                .unwrap();
        tokio::spawn(connection);
        let log = open(&postgres, LogOptions::default()).await;
        Self { log, postgres, client, _dir: dir }
    }

    /// Creates a partition for rows that no projection reads.
    pub(crate) async fn scratch(&self, project: &ProjectId) {
        self.log.ensure_project(project).await.unwrap();
        let forget = "DELETE FROM heads WHERE project = $1";
        self.client.execute(forget, &[&project.as_str()]).await.unwrap();
    }

    /// The same log, with other options.
    pub(crate) async fn open(&self, options: LogOptions) -> EventLog {
        open(&self.postgres, options).await
    }

    /// Rows of a project as binary COPY data for a scratch project, `rows` in each chunk.
    pub(crate) async fn copies(
        &self,
        from: &ProjectId,
        scratch: &ProjectId,
        (after, last): (u64, u64),
        rows: u64,
    ) -> Vec<Bytes> {
        let mut copies = Vec::new();
        for first in (after..last).step_by(usize::try_from(rows).unwrap()) {
            let sql = format!(
                "COPY (SELECT '{scratch}'::text, {COLUMNS} FROM events WHERE project = '{from}'
                       AND position > {first} AND position <= {} ORDER BY position)
                 TO STDOUT (FORMAT binary)",
                (first + rows).min(last)
            );
            let chunks: Vec<Bytes> =
                self.client.copy_out(&sql).await.unwrap().try_collect().await.unwrap();
            let mut copy = BytesMut::new();
            chunks.iter().for_each(|chunk| copy.extend_from_slice(chunk));
            copies.push(copy.freeze());
        }
        copies
    }

    /// Writes the chunks into the log's table, each in a separate transaction; returns seconds.
    pub(crate) async fn copy(&self, copies: Vec<Bytes>) -> f64 {
        let sql = format!("COPY events (project, {COLUMNS}) FROM STDIN (FORMAT binary)");
        let statement = self.client.prepare(&sql).await.unwrap();
        let start = Instant::now();
        for copy in copies {
            let sink = self.client.copy_in::<_, Bytes>(&statement).await.unwrap();
            let mut sink = std::pin::pin!(sink);
            // In parts that the socket accepts in one write.
            let mut rest = copy;
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(64 * 1024));
                sink.feed(piece).await.unwrap();
            }
            sink.finish().await.unwrap();
        }
        start.elapsed().as_secs_f64()
    }

    /// The newest position of a project.
    pub(crate) async fn head(&self, project: &ProjectId) -> u64 {
        self.log.head(project).await.unwrap().unwrap().position.get()
    }
}

async fn open(postgres: &Postgres, options: LogOptions) -> EventLog {
    let connect = ConnectOptions::new(postgres.connection_url());
    EventLog::open(&connect, options).await.unwrap()
}
