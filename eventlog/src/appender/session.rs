//! The append transaction: one connection, one transaction per group.
//!
//! The versions of streams and the frontier are cached; the cache is valid while the head row shows
//! that no other process has appended.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::future::try_join_all;
use muster_schemas::errors::error_chain;
use muster_schemas::{Hash, Position, ProjectId, Timestamp};
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::plan::{HeadState, Named, Plan, StreamState, Streams, plan};
use super::queues::{BatchResult, QueuedBatch};
use super::statements::{COPY_TYPES, SETTINGS, Statements};
use crate::access::{AccessChanges, is_about_access};
use crate::append::{AppendError, Appended, Batch, OffsetMove};
use crate::connect::Dialer;
use crate::device_effects;
use crate::error::{ErrorContext, StoreError};
use crate::integers::{as_i64, number};
use crate::log_options::LogOptions;
use crate::merkle::Frontier;
use crate::partitions;

/// Maximum number of cached streams; beyond it the cache is cleared.
const MAX_CACHED_STREAMS: usize = 200_000;

/// Channel for notifications of a project's new head: `<project>:<position>`.
pub(crate) const NOTIFY_CHANNEL: &str = "muster_events";

/// What the sessions of an appender have in common.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub(super) project: ProjectId,
    pub(super) dialer: Arc<Dialer>,
    pub(super) options: LogOptions,
    pub(super) access: AccessChanges,
}

#[derive(Debug)]
pub(crate) struct Session {
    project: ProjectId,
    client: Client,
    statements: Statements,
    dialer: Arc<Dialer>,
    options: LogOptions,
    access: AccessChanges,
    /// Frontier after this session's last write; the caches are valid while the head matches it.
    frontier: Option<Frontier>,
    streams: Streams,
    /// Newest range of positions whose partition was requested in advance.
    last_requested_range: u64,
    /// Newest range of positions whose partition certainly exists.
    last_existing_range: u64,
}

impl Session {
    pub(crate) async fn open(opening: &Opening) -> Result<Self, StoreError> {
        let Opening { project, dialer, options, access } = opening.clone();
        let client = dialer.dial().await?;
        client.batch_execute(SETTINGS).await.while_trying("set up the appender's session")?;
        let statements =
            Statements::prepare(&client).await.while_trying("prepare the appender's statements")?;
        Ok(Self {
            project,
            client,
            statements,
            dialer,
            options,
            access,
            frontier: None,
            streams: Streams::new(),
            last_requested_range: 0,
            last_existing_range: 0,
        })
    }

    /// Appends a group and sends the results. After an error, which all callers got, the session
    /// must not be used again.
    pub(crate) async fn append(&mut self, group: Vec<QueuedBatch>) -> Result<(), Arc<StoreError>> {
        let (batches, replies): (Vec<_>, Vec<_>) =
            group.into_iter().map(|work| (work.batch, work.reply)).unzip();
        match self.transact(&batches).await {
            Ok(results) => {
                for (reply, result) in replies.into_iter().zip(results) {
                    let _ = reply.send(result);
                }
                self.create_next_range();
                Ok(())
            }
            Err(error) => {
                let error = Arc::new(error);
                for reply in replies {
                    let shared = StoreError::Shared(error.clone());
                    let _ = reply.send(Err(AppendError::Store(shared)));
                }
                Err(error)
            }
        }
    }

    /// Creates the next partition in the background, before it is needed.
    fn create_next_range(&mut self) {
        let rows = self.options.partition_rows;
        let position = Position(self.frontier.as_ref().map_or(0, Frontier::size));
        let next = partitions::range_of(position + rows / 2, rows) + 1;
        if next <= self.last_requested_range {
            return;
        }
        self.last_requested_range = next;
        let (project, dialer) = (self.project.clone(), self.dialer.clone());
        tokio::spawn(async move {
            let made = async {
                let client = dialer.dial().await?;
                partitions::ensure_range(&client, &project, next - 1, rows).await?;
                partitions::ensure_range(&client, &project, next, rows).await
            };
            if let Err(error) = made.await {
                tracing::error!(
                    %project, error = %error_chain(&error),
                    "failed to create the log's next partition"
                );
            }
        });
    }

    /// Runs the transaction in three round trips: `BEGIN` and reads, start of the COPY, everything
    /// else.
    async fn transact(&mut self, batches: &[Batch]) -> Result<Vec<BatchResult>, StoreError> {
        let project = self.project.clone();
        let Some((head, fenced)) = self.begin(batches).await? else {
            self.client.batch_execute("ROLLBACK").await.while_trying("roll back an append")?;
            let no_project = || Err(AppendError::NoProject(project.to_string()));
            return Ok(batches.iter().map(|_| no_project()).collect());
        };
        let named: Vec<Named<'_>> = batches
            .iter()
            .zip(&fenced)
            .filter(|(_, fenced)| !**fenced)
            .flat_map(|(batch, _)| &batch.appends)
            .map(|append| {
                (append, append.streams.iter().map(|part| part.stream.to_string()).collect())
            })
            .collect();
        if self.streams.len() > MAX_CACHED_STREAMS {
            self.streams.clear();
        }
        let (client, statements) = (&self.client, &self.statements);
        let done = load(client, statements, project.as_str(), &mut self.streams, &named).await?;

        let plan = plan(&head, &self.streams, &done, &named);
        let frontier = if plan.rows.is_empty() {
            client.batch_execute("COMMIT").await.while_trying("commit an append")?;
            head.frontier
        } else {
            self.last_existing_range = self.ensure_ranges(plan.position).await?;
            write(client, statements, &project, &head, &plan).await?
        };
        if has_access_change(&plan) {
            self.access.add();
        }
        // The caches change only after COMMIT has succeeded.
        self.frontier = Some(frontier);
        if plan.rows.iter().any(|row| row.event.effect.is_some()) {
            self.streams.clear();
        } else {
            let moved =
                plan.updated_streams.into_iter().map(|(name, state)| (name.to_owned(), state));
            self.streams.extend(moved);
        }

        let mut results = plan.results.into_iter();
        Ok(batches
            .iter()
            .zip(fenced)
            .map(|(batch, fenced)| match (&batch.offset, fenced) {
                (Some(offset), true) => Err(AppendError::Fenced(offset.name.clone())),
                _ => Ok(results.by_ref().take(batch.appends.len()).collect()),
            })
            .collect())
    }

    /// Starts the transaction, takes the log's lock and advances the readers' offsets. Returns the
    /// state of the log, and whether each batch's offset was fenced. `None` if the project does not
    /// exist.
    async fn begin(
        &mut self,
        batches: &[Batch],
    ) -> Result<Option<(HeadState, Vec<bool>)>, StoreError> {
        let (client, statements) = (&self.client, &self.statements);
        let project = self.project.as_str();
        let params: [&(dyn ToSql + Sync); 1] = [&project];
        let offsets = batches.iter().map(|batch| is_fenced(client, statements, batch));
        let (_, _, head, fenced) = tokio::try_join!(
            biased;
            client.batch_execute("BEGIN"),
            client.query_opt(&statements.lock, &params),
            client.query_opt(&statements.head, &params),
            try_join_all(offsets),
        )
        .while_trying("lock the head of the log")?;
        let Some(head) = head else {
            return Ok(None);
        };
        let position: u64 = number(&head, 0);
        if self.frontier.as_ref().is_none_or(|frontier| frontier.size() != position) {
            self.streams.clear();
            self.frontier = Frontier::from_bytes(position, head.get(1));
        }
        let frontier = self.frontier.clone().ok_or_else(|| {
            StoreError::Corrupt(format!("the frontier of {project} does not fit its position"))
        })?;
        Ok(Some((HeadState { frontier, recorded_at: Timestamp(head.get(2)) }, fenced)))
    }

    /// Ensures that the partitions up to a position exist, and returns the newest existing range.
    /// Usually they were created in advance.
    async fn ensure_ranges(&self, position: Position) -> Result<u64, StoreError> {
        let rows = self.options.partition_rows;
        let needed = partitions::range_of(position, rows);
        if needed > self.last_existing_range {
            let client = self.dialer.dial().await?;
            for range in self.last_existing_range + 1..=needed {
                partitions::ensure_range(&client, &self.project, range, rows).await?;
            }
        }
        Ok(needed.max(self.last_existing_range))
    }
}

/// Advances the offset of a batch that has one; true when another lease holds it.
async fn is_fenced(
    client: &Client,
    statements: &Statements,
    batch: &Batch,
) -> Result<bool, tokio_postgres::Error> {
    let Some(OffsetMove { name, incarnation, sequence, fence }) = &batch.offset else {
        return Ok(false);
    };
    let params: [&(dyn ToSql + Sync); 4] = [name, incarnation, &as_i64(*sequence), fence];
    Ok(client.query_opt(&statements.offset, &params).await?.is_none())
}

/// Reads the streams that are not cached, and the results of already used append ids.
async fn load(
    client: &Client,
    statements: &Statements,
    project: &str,
    streams: &mut Streams,
    appends: &[Named<'_>],
) -> Result<HashMap<Uuid, Appended>, StoreError> {
    let unknown: Vec<&str> = appends
        .iter()
        .flat_map(|(_, names)| names)
        .map(String::as_str)
        .filter(|name| !streams.contains_key(*name))
        .collect();
    if !unknown.is_empty() {
        let rows = client
            .query(&statements.streams, &[&project, &unknown])
            .await
            .while_trying("read the streams' versions")?;
        for row in rows {
            let state = StreamState {
                version: number(&row, 1),
                tip: row.get::<_, Option<&[u8]>>(2).and_then(Hash::from_slice),
                is_closed: row.get(3),
            };
            streams.insert(row.get(0), state);
        }
    }
    let ids: Vec<Uuid> = appends.iter().filter_map(|(append, _)| append.append_id).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = client
        .query(&statements.appends, &[&project, &ids])
        .await
        .while_trying("look up append ids")?;
    Ok(rows
        .iter()
        .map(|row| {
            let appended = Appended {
                first: number(row, 1),
                last: number(row, 2),
                recorded_at: Timestamp(row.get(3)),
                request_hash: row.get::<_, Option<&[u8]>>(4).and_then(Hash::from_slice),
            };
            (row.get(0), appended)
        })
        .collect())
}

/// Writes the plan and commits, pipelined behind the COPY: the leaves are hashed while PostgreSQL
/// receives the rows. Returns the tree's new frontier.
async fn write(
    client: &Client,
    statements: &Statements,
    project: &ProjectId,
    head: &HeadState,
    plan: &Plan<'_>,
) -> Result<Frontier, StoreError> {
    let name = project.as_str();
    let (mut streams, mut versions, mut tips) = (Vec::new(), Vec::new(), Vec::new());
    for (stream, state) in &plan.updated_streams {
        streams.push(*stream);
        versions.push(as_i64(state.version));
        tips.push(state.tip.as_ref().map(|tip| tip.0.as_slice()));
    }
    let ids: Vec<Uuid> = plan.appends.iter().map(|(id, _)| *id).collect();
    let firsts: Vec<i64> = plan.appends.iter().map(|(_, at)| as_i64(at.first)).collect();
    let lasts: Vec<i64> = plan.appends.iter().map(|(_, at)| as_i64(at.last)).collect();
    let hashes: Vec<Option<&[u8]>> = plan
        .appends
        .iter()
        .map(|(_, at)| at.request_hash.as_ref().map(|hash| hash.0.as_slice()))
        .collect();
    let recorded_at = head.recorded_at.micros();
    let move_streams: [&(dyn ToSql + Sync); 4] = [&name, &streams, &versions, &tips];
    let new_appends: [&(dyn ToSql + Sync); 6] =
        [&name, &ids, &firsts, &lasts, &recorded_at, &hashes];

    let mut copy = copy_rows(client, statements, name, head, plan)
        .await
        .while_trying("write events into the log")?;
    // Statements run in the order in which they are sent. If one fails, PostgreSQL refuses the
    // rest.
    let (_, _, _, frontier) = tokio::try_join!(
        biased;
        async { copy.as_mut().finish().await.while_trying("write events into the log") },
        async {
            let moved = client.execute(&statements.update_streams, &move_streams).await;
            moved.while_trying("update the streams' versions")
        },
        async {
            if ids.is_empty() {
                return Ok(0);
            }
            let noted = client.execute(&statements.insert_appends, &new_appends).await;
            noted.while_trying("record append ids")
        },
        commit(client, statements, project, head, plan),
    )?;
    Ok(frontier)
}

/// Whether the plan changes what requests may do.
fn has_access_change(plan: &Plan<'_>) -> bool {
    plan.rows.iter().any(|row| is_about_access(row.event.kind))
}

/// Ends the transaction: effects of events on keys and epochs, the head, COMMIT.
async fn commit(
    client: &Client,
    statements: &Statements,
    project: &ProjectId,
    head: &HeadState,
    plan: &Plan<'_>,
) -> Result<Frontier, StoreError> {
    // Let the rows be sent first, then hash.
    tokio::task::yield_now().await;
    let frontier = plan.frontier(project, head);
    for row in &plan.rows {
        if let Some(event) = &row.event.effect {
            let stream = row.stream.parse().map_err(|error| {
                StoreError::Corrupt(format!("the stream of an effect: {error}"))
            })?;
            device_effects::apply(client, project.as_str(), row.position, &stream, event).await?;
        }
    }
    let (position, nodes) = (as_i64(plan.position), frontier.to_bytes());
    let announcement = format!("{project}:{position}");
    let move_head: [&(dyn ToSql + Sync); 4] =
        [&project.as_str(), &position, &nodes, &head.recorded_at.micros()];
    let notify: [&(dyn ToSql + Sync); 1] = [&announcement];
    tokio::try_join!(
        biased;
        client.execute(&statements.update_head, &move_head),
        client.execute(&statements.notify, &notify),
        async {
            match has_access_change(plan) {
                true => client.execute(&statements.notify_access, &[]).await,
                false => Ok(0),
            }
        },
        client.batch_execute("COMMIT"),
    )
    .while_trying("commit an append")?;
    Ok(frontier)
}

/// Sends the rows; the COPY is not finished yet.
async fn copy_rows(
    client: &Client,
    statements: &Statements,
    project: &str,
    head: &HeadState,
    plan: &Plan<'_>,
) -> Result<Pin<Box<BinaryCopyInWriter>>, tokio_postgres::Error> {
    let sink = client.copy_in(&statements.copy).await?;
    let mut writer = Box::pin(BinaryCopyInWriter::new(sink, &COPY_TYPES));
    let recorded_at = head.recorded_at.to_datetime();
    for row in &plan.rows {
        let event = row.event;
        writer
            .as_mut()
            .write(&[
                &project,
                &as_i64(row.position),
                &row.stream,
                &as_i64(row.stream_version),
                &event.kind,
                &i16::try_from(event.schema_version).unwrap_or(i16::MAX),
                &event.occurred_at.micros(),
                &recorded_at,
                &row.append.actor,
                &row.append.correlation,
                &row.append.causation,
                &event.record.as_ref(),
                &event.salt.as_slice(),
                &event.authority.as_deref(),
            ])
            .await?;
    }
    Ok(writer)
}
