//! The statements of the append transaction, prepared once per session.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

/// Settings of the session. Scans and joins that read whole tables are disabled: a plan from the
/// time when `streams` was small would otherwise be kept forever.
pub(super) const SETTINGS: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; \
     SET enable_mergejoin = off; SET jit = off; SET plan_cache_mode = force_generic_plan; \
     SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '30s'";

#[derive(Debug)]
pub(super) struct Statements {
    pub(super) lock: Statement,
    pub(super) head: Statement,
    pub(super) streams: Statement,
    pub(super) appends: Statement,
    pub(super) offset: Statement,
    pub(super) copy: Statement,
    pub(super) update_streams: Statement,
    pub(super) insert_appends: Statement,
    pub(super) update_head: Statement,
    pub(super) notify: Statement,
    pub(super) notify_access: Statement,
}

const COPY: &str = "COPY events (project, position, stream, stream_version, type, schema_version, \
     occurred_at, recorded_at, actor, correlation, causation, record, salt, authority) \
     FROM STDIN (FORMAT binary)";

pub(super) const COPY_TYPES: [Type; 14] = [
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
    Type::BYTEA,
];

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let (lock, head, streams, appends, offset, copy) = tokio::try_join!(
            client.prepare(
                // Not an advisory lock, which any database user may hold. This needs the right to
                // update `heads`. Later statements see what the previous holder has written.
                "SELECT FROM heads WHERE project = $1 FOR UPDATE"
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
                    (extract(epoch FROM recorded_at) * 1000000)::bigint, request_hash
                 FROM appends WHERE project = $1 AND append_id = ANY($2)"
            ),
            client.prepare(
                "UPDATE offsets SET sequence = $3, incarnation = $2
                 WHERE name = $1 AND fence = $4 RETURNING 1"
            ),
            client.prepare(COPY),
        )?;
        let (move_streams, new_appends, move_head, notify, notify_access) = tokio::try_join!(
            client.prepare(
                // An upsert finds each row through the primary key, independent of the planner's
                // statistics. An UPDATE with a join once compared all rows with each other.
                "INSERT INTO streams (project, stream, version, tip)
                 SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::bytea[])
                 ON CONFLICT (project, stream)
                 DO UPDATE SET version = excluded.version, tip = excluded.tip"
            ),
            client.prepare(
                "INSERT INTO appends (project, append_id, first_position, last_position, recorded_at,
                    request_hash)
                 SELECT $1, id, first, last,
                    timestamptz 'epoch' + $5::bigint * interval '1 microsecond', hash
                 FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $6::bytea[])
                    AS new(id, first, last, hash)"
            ),
            client.prepare(
                "UPDATE heads SET position = $2, frontier = $3,
                    recorded_at = timestamptz 'epoch' + $4::bigint * interval '1 microsecond'
                 WHERE project = $1"
            ),
            client.prepare("SELECT pg_notify('muster_events', $1)"),
            client.prepare("SELECT pg_notify('muster_access', '')"),
        )?;
        Ok(Self {
            lock,
            head,
            streams,
            appends,
            offset,
            copy,
            update_streams: move_streams,
            insert_appends: new_appends,
            update_head: move_head,
            notify,
            notify_access,
        })
    }
}
