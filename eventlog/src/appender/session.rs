//! The append transaction itself: one connection, one transaction a group.
//!
//! Streams' versions and the frontier are cached, and the cache holds as long as the head row says
//! that nobody else has appended since.

use std::collections::HashMap;
use std::sync::Arc;

use futures::pin_mut;
use muster_schemas::{Hash, ProjectId, Timestamp};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement, Transaction};
use uuid::Uuid;

use super::plan::{HeadState, Named, Plan, StreamState, Streams, plan};
use super::{Work, describe};
use crate::append::{AppendError, Appended, OffsetMove};
use crate::connect::Dialer;
use crate::device_keys::{self, as_i64};
use crate::error::{Attempted, StoreError};
use crate::log::LogOptions;
use crate::merkle::Frontier;
use crate::partitions;

/// Streams that are remembered; when there are more, all are forgotten and read anew.
const CACHED_STREAMS: usize = 200_000;

/// The session's settings. Scans and joins that read whole tables are off: a plan made while
/// `streams` was small would otherwise be kept for ever.
const SETTINGS: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; \
     SET enable_mergejoin = off; SET jit = off; SET plan_cache_mode = force_generic_plan; \
     SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '30s'";

/// The channel on which a project's new head is announced: `<project>:<position>`.
pub(crate) const CHANNEL: &str = "muster_events";

#[derive(Debug)]
struct Statements {
    lock: Statement,
    head: Statement,
    streams: Statement,
    appends: Statement,
    offset: Statement,
    copy: Statement,
    move_streams: Statement,
    new_streams: Statement,
    new_appends: Statement,
    move_head: Statement,
    notify: Statement,
}

const COPY: &str = "COPY events (project, position, stream, stream_version, type, schema_version, \
     occurred_at, recorded_at, actor, correlation, causation, record, salt) \
     FROM STDIN (FORMAT binary)";

const COPY_TYPES: [Type; 13] = [
    Type::TEXT,
    Type::INT8,
    Type::TEXT,
    Type::INT8,
    Type::TEXT,
    Type::INT2,
    Type::INT8,
    Type::TIMESTAMPTZ,
    Type::TEXT,
    Type::UUID,
    Type::UUID,
    Type::BYTEA,
    Type::BYTEA,
];

impl Statements {
    async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let (lock, head, streams, appends, offset, copy) = tokio::try_join!(
            client.prepare(
                "SELECT pg_advisory_xact_lock(hashtextextended('muster-append:' || $1, 0))"
            ),
            client.prepare(
                "SELECT position, frontier,
                    (extract(epoch FROM greatest(recorded_at, clock_timestamp())) * 1000000)::bigint
                 FROM heads WHERE project = $1 FOR UPDATE"
            ),
            client.prepare(
                "SELECT stream, version, tip, closed FROM streams
                 WHERE project = $1 AND stream = ANY($2)"
            ),
            client.prepare(
                "SELECT append_id, first_position, last_position,
                    (extract(epoch FROM recorded_at) * 1000000)::bigint
                 FROM appends WHERE project = $1 AND append_id = ANY($2)"
            ),
            client.prepare(
                "UPDATE offsets SET sequence = $3, incarnation = $2
                 WHERE name = $1 AND fence = $4 RETURNING 1"
            ),
            client.prepare(COPY),
        )?;
        let (move_streams, new_streams, new_appends, move_head, notify) = tokio::try_join!(
            client.prepare(
                // Rows are found one by one through the primary key, whatever the planner believes of a
                // table without statistics: joined freely, it compared each row with each stream.
                "UPDATE streams SET version = new.version, tip = new.tip
                 FROM (SELECT found.ctid AS place, n.version, n.tip
                       FROM unnest($2::text[], $3::bigint[], $4::bytea[]) AS n(stream, version, tip)
                       CROSS JOIN LATERAL (SELECT ctid FROM streams
                           WHERE project = $1 AND stream = n.stream OFFSET 0) AS found) AS new
                 WHERE streams.ctid = new.place"
            ),
            client.prepare(
                "INSERT INTO streams (project, stream, version, tip)
                 SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::bytea[])"
            ),
            client.prepare(
                "INSERT INTO appends (project, append_id, first_position, last_position, recorded_at)
                 SELECT $1, id, first, last,
                    timestamptz 'epoch' + $5::bigint * interval '1 microsecond'
                 FROM unnest($2::uuid[], $3::bigint[], $4::bigint[]) AS new(id, first, last)"
            ),
            client.prepare(
                "UPDATE heads SET position = $2, frontier = $3,
                    recorded_at = timestamptz 'epoch' + $4::bigint * interval '1 microsecond'
                 WHERE project = $1"
            ),
            client.prepare("SELECT pg_notify('muster_events', $1)"),
        )?;
        Ok(Self {
            lock,
            head,
            streams,
            appends,
            offset,
            copy,
            move_streams,
            new_streams,
            new_appends,
            move_head,
            notify,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Session {
    project: ProjectId,
    client: Client,
    statements: Statements,
    dialer: Arc<Dialer>,
    options: LogOptions,
    /// Where the log stood when this session last wrote; the cache is good while it still does.
    frontier: Option<Frontier>,
    streams: Streams,
    /// The newest range of positions that was asked for ahead of need.
    ranges_made: u64,
    /// The newest range of positions whose partition is there for certain.
    ranges_there: u64,
}

impl Session {
    pub(crate) async fn open(
        project: ProjectId,
        dialer: Arc<Dialer>,
        options: LogOptions,
    ) -> Result<Self, StoreError> {
        let client = dialer.dial().await?;
        client.batch_execute(SETTINGS).await.attempted("set up the appender's session")?;
        let statements =
            Statements::prepare(&client).await.attempted("prepare the appender's statements")?;
        Ok(Self {
            project,
            client,
            statements,
            dialer,
            options,
            frontier: None,
            streams: Streams::new(),
            ranges_made: 0,
            ranges_there: 0,
        })
    }

    /// Appends a group and answers everyone in it. On an error, everyone was told, and the session
    /// is not to be used again.
    pub(crate) async fn append(&mut self, group: Vec<Work>) -> Result<(), StoreError> {
        let (batches, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|work| (work.batch, work.answer)).unzip();
        match self.transact(&batches).await {
            Ok(results) => {
                for (answer, result) in answers.into_iter().zip(results) {
                    let _ = answer.send(result);
                }
                self.make_next_range();
                Ok(())
            }
            Err(error) => {
                let text = describe(&error);
                for answer in answers {
                    let shared = StoreError::Connect(text.clone().into());
                    let _ = answer.send(Err(AppendError::Store(shared)));
                }
                Err(error)
            }
        }
    }

    /// Makes the next partition beside the appends, before it is needed.
    fn make_next_range(&mut self) {
        let rows = self.options.partition_rows;
        let position = self.frontier.as_ref().map_or(0, Frontier::size);
        let next = partitions::range_of(position + rows / 2, rows) + 1;
        if next <= self.ranges_made {
            return;
        }
        self.ranges_made = next;
        let (project, dialer) = (self.project.clone(), self.dialer.clone());
        tokio::spawn(async move {
            let made = async {
                let client = dialer.dial().await?;
                partitions::ensure_range(&client, &project, next - 1, rows).await?;
                partitions::ensure_range(&client, &project, next, rows).await
            };
            if let Err(error) = made.await {
                tracing::error!(%project, error = %describe(&error), "no partition could be made ahead");
            }
        });
    }

    async fn transact(
        &mut self,
        batches: &[crate::Batch],
    ) -> Result<Vec<super::Answer>, StoreError> {
        // The project's name as the statements take it.
        let project_id = self.project.clone();
        let project = project_id.as_str();
        let transaction = self.client.transaction().await.attempted("begin an append")?;
        let params: [&(dyn ToSql + Sync); 1] = [&project];
        let (_, head) = tokio::try_join!(
            transaction.query_one(&self.statements.lock, &params),
            transaction.query_opt(&self.statements.head, &params),
        )
        .attempted("lock the head of the log")?;
        let Some(head) = head else {
            return Ok(batches
                .iter()
                .map(|_| Err(AppendError::NoProject(project.to_owned())))
                .collect());
        };
        let position = head.get::<_, i64>(0).unsigned_abs();
        if self.frontier.as_ref().is_none_or(|frontier| frontier.size() != position) {
            self.streams.clear();
            self.frontier = Frontier::from_bytes(position, head.get(1));
        }
        let frontier = self.frontier.clone().ok_or_else(|| {
            StoreError::Corrupt(format!("the frontier of {project} does not fit its position"))
        })?;
        let head = HeadState { frontier, recorded_at: Timestamp(head.get(2)) };

        let mut fenced = Vec::with_capacity(batches.len());
        for batch in batches {
            fenced.push(match &batch.offset {
                Some(offset) => !move_offset(&transaction, &self.statements, offset).await?,
                None => false,
            });
        }
        let named: Vec<Named<'_>> = batches
            .iter()
            .zip(&fenced)
            .filter(|(_, fenced)| !**fenced)
            .flat_map(|(batch, _)| &batch.appends)
            .map(|append| {
                (append, append.streams.iter().map(|part| part.stream.to_string()).collect())
            })
            .collect();
        if self.streams.len() > CACHED_STREAMS {
            self.streams.clear();
        }
        let done = load(&transaction, &self.statements, project, &mut self.streams, &named).await?;

        let plan = plan(&project_id, &head, &self.streams, &done, &named);
        let mut has_effects = false;
        if !plan.rows.is_empty() {
            // Made ahead of need, as a rule; should that be late, the append waits for it.
            let needed = partitions::range_of(plan.frontier.size(), self.options.partition_rows);
            if needed > self.ranges_there {
                let client = self.dialer.dial().await?;
                for range in self.ranges_there + 1..=needed {
                    let rows = self.options.partition_rows;
                    partitions::ensure_range(&client, &project_id, range, rows).await?;
                }
                self.ranges_there = needed;
            }
            write(&transaction, &self.statements, project, &head, &plan).await?;
            for row in &plan.rows {
                if let Some(event) = &row.event.effect {
                    has_effects = true;
                    let stream = row.stream.parse().map_err(|error| {
                        StoreError::Corrupt(format!("the stream of an effect: {error}"))
                    })?;
                    device_keys::apply(&transaction, project, &stream, event).await?;
                }
            }
        }
        // The caches change only once COMMIT is certain.
        let Plan { moved, frontier, results, .. } = plan;
        let moved: Vec<(String, StreamState)> =
            moved.into_iter().map(|(name, (state, _))| (name.to_owned(), state)).collect();
        transaction.commit().await.attempted("commit an append")?;
        self.frontier = Some(frontier);
        if has_effects {
            self.streams.clear();
        } else {
            self.streams.extend(moved);
        }

        let mut results = results.into_iter();
        Ok(batches
            .iter()
            .zip(fenced)
            .map(|(batch, fenced)| match (&batch.offset, fenced) {
                (Some(offset), true) => Err(AppendError::Fenced(offset.name.clone())),
                _ => Ok(results.by_ref().take(batch.appends.len()).collect()),
            })
            .collect())
    }
}

/// Moves a reader's offset; false when another lease holds it.
async fn move_offset(
    transaction: &Transaction<'_>,
    statements: &Statements,
    offset: &OffsetMove,
) -> Result<bool, StoreError> {
    let moved = transaction
        .query_opt(
            &statements.offset,
            &[&offset.name, &offset.incarnation, &as_i64(offset.sequence), &offset.fence],
        )
        .await
        .attempted("move a reader's offset")?;
    Ok(moved.is_some())
}

/// Reads the streams that the cache does not hold, and the append ids that were seen before.
async fn load(
    transaction: &Transaction<'_>,
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
        let rows = transaction
            .query(&statements.streams, &[&project, &unknown])
            .await
            .attempted("read the streams' versions")?;
        for row in rows {
            let state = StreamState {
                version: row.get::<_, i64>(1).unsigned_abs(),
                tip: row.get::<_, Option<&[u8]>>(2).and_then(Hash::from_slice),
                closed: row.get(3),
            };
            streams.insert(row.get(0), state);
        }
    }
    let ids: Vec<Uuid> = appends.iter().filter_map(|(append, _)| append.append_id).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = transaction
        .query(&statements.appends, &[&project, &ids])
        .await
        .attempted("look up append ids")?;
    Ok(rows
        .iter()
        .map(|row| {
            let appended = Appended {
                first: row.get::<_, i64>(1).unsigned_abs(),
                last: row.get::<_, i64>(2).unsigned_abs(),
                recorded_at: Timestamp(row.get(3)),
            };
            (row.get(0), appended)
        })
        .collect())
}

/// Writes everything that the plan says; the statements after the COPY go out in one flight.
async fn write(
    transaction: &Transaction<'_>,
    statements: &Statements,
    project: &str,
    head: &HeadState,
    plan: &Plan<'_>,
) -> Result<(), StoreError> {
    copy_rows(transaction, statements, project, head, plan)
        .await
        .attempted("write events into the log")?;

    let position = plan.frontier.size();
    let columns = |new: bool| {
        let mut names = Vec::new();
        let mut versions = Vec::new();
        let mut tips = Vec::new();
        for (name, (state, is_new)) in &plan.moved {
            if *is_new == new {
                names.push(*name);
                versions.push(as_i64(state.version));
                tips.push(state.tip.map(|tip| tip.0.to_vec()));
            }
        }
        (names, versions, tips)
    };
    let (moved, new) = (columns(false), columns(true));
    let ids: Vec<Uuid> = plan.appends.iter().map(|(id, _)| *id).collect();
    let firsts: Vec<i64> = plan.appends.iter().map(|(_, at)| as_i64(at.first)).collect();
    let lasts: Vec<i64> = plan.appends.iter().map(|(_, at)| as_i64(at.last)).collect();
    let recorded_at = head.recorded_at.micros();
    let frontier = plan.frontier.to_bytes();
    let announcement = format!("{project}:{position}");
    let position = as_i64(position);

    let move_streams: [&(dyn ToSql + Sync); 4] = [&project, &moved.0, &moved.1, &moved.2];
    let new_streams: [&(dyn ToSql + Sync); 4] = [&project, &new.0, &new.1, &new.2];
    let new_appends: [&(dyn ToSql + Sync); 5] = [&project, &ids, &firsts, &lasts, &recorded_at];
    let move_head: [&(dyn ToSql + Sync); 4] = [&project, &position, &frontier, &recorded_at];
    let notify: [&(dyn ToSql + Sync); 1] = [&announcement];
    tokio::try_join!(
        run_if(transaction, !moved.0.is_empty(), &statements.move_streams, &move_streams),
        run_if(transaction, !new.0.is_empty(), &statements.new_streams, &new_streams),
        run_if(transaction, !ids.is_empty(), &statements.new_appends, &new_appends),
        run_if(transaction, true, &statements.move_head, &move_head),
        run_if(transaction, true, &statements.notify, &notify),
    )
    .attempted("move the head of the log")?;
    Ok(())
}

/// Runs a statement; one with nothing to do is not sent.
async fn run_if(
    transaction: &Transaction<'_>,
    wanted: bool,
    statement: &Statement,
    params: &[&(dyn ToSql + Sync)],
) -> Result<u64, tokio_postgres::Error> {
    if wanted { transaction.execute(statement, params).await } else { Ok(0) }
}

async fn copy_rows(
    transaction: &Transaction<'_>,
    statements: &Statements,
    project: &str,
    head: &HeadState,
    plan: &Plan<'_>,
) -> Result<(), tokio_postgres::Error> {
    let sink = transaction.copy_in(&statements.copy).await?;
    let writer = BinaryCopyInWriter::new(sink, &COPY_TYPES);
    pin_mut!(writer);
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
            ])
            .await?;
    }
    writer.finish().await?;
    Ok(())
}
