-- The event log: docs/ARCHITECTURE.md, "The event log", tells how these tables work together.

-- One row a project: where its log ends, and the Merkle tree's frontier there.
CREATE TABLE heads (
    project     text COLLATE "C" PRIMARY KEY,
    position    bigint      NOT NULL DEFAULT 0 CHECK (position >= 0),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    frontier    bytea       NOT NULL DEFAULT ''  -- 32 bytes a node, the largest subtree first
) WITH (fillfactor = 50);

-- The log itself. Partitions by project, then by position, are made ahead of need.
CREATE TABLE events (
    project        text COLLATE "C" NOT NULL,
    position       bigint      NOT NULL,
    stream         text COLLATE "C" NOT NULL,
    stream_version bigint      NOT NULL,
    type           text COLLATE "C" NOT NULL,
    schema_version smallint    NOT NULL,
    occurred_at    bigint      NOT NULL,  -- microseconds since 1970, as claimed: may be absurd
    recorded_at    timestamptz NOT NULL,  -- PostgreSQL's clock, never going back in a project
    actor          text        NOT NULL,
    correlation    uuid,
    causation      uuid,
    record         bytea       NOT NULL,  -- exact bytes: CBOR, or a device's COSE_Sign1
    salt           bytea       NOT NULL,
    PRIMARY KEY (project, position)
) PARTITION BY LIST (project);

-- Reading one stream back is for what operators decide; what devices report is found through a
-- projection, because an index on every event would cost a quarter of the append rate.
CREATE INDEX events_stream ON events (project, stream, stream_version)
    WHERE left(stream, 7) <> 'device-';
CREATE INDEX events_recorded_at ON events USING brin (recorded_at);

-- The newest version of each stream. For a device's reports, the tip is the SHA-256 of its newest
-- sealed event, and the version is its seq.
CREATE TABLE streams (
    project text COLLATE "C" NOT NULL,
    stream  text COLLATE "C" NOT NULL,
    version bigint  NOT NULL,
    tip     bytea,
    closed  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (project, stream)
) WITH (fillfactor = 70);

-- What a retried append got the first time.
CREATE TABLE appends (
    project        text COLLATE "C" NOT NULL,
    append_id      uuid        NOT NULL,
    first_position bigint      NOT NULL,
    last_position  bigint      NOT NULL,
    recorded_at    timestamptz NOT NULL,
    PRIMARY KEY (project, append_id)
);
CREATE INDEX appends_recorded_at ON appends USING brin (recorded_at);

-- The keys that devices sign with, kept in the append transaction.
CREATE TABLE device_keys (
    project     text COLLATE "C" NOT NULL,
    device      uuid    NOT NULL,
    fingerprint bytea   NOT NULL,
    public_key  bytea   NOT NULL,
    epoch       bigint  NOT NULL,
    revoked     boolean NOT NULL DEFAULT false,
    PRIMARY KEY (project, device, fingerprint)
);

-- How far a reader of a JetStream partition has come; moved in the append transaction.
CREATE TABLE offsets (
    name       text COLLATE "C" PRIMARY KEY,
    incarnation text   NOT NULL DEFAULT '',  -- which stream: one made anew starts at 1 again
    sequence    bigint NOT NULL DEFAULT 0,
    fence       bigint NOT NULL DEFAULT 0    -- the lease that may move it
);

-- Who does a piece of work that only one process may do at a time.
CREATE TABLE leases (
    name       text COLLATE "C" PRIMARY KEY,
    holder     uuid        NOT NULL,
    fence      bigint      NOT NULL,
    expires_at timestamptz NOT NULL
);

-- What could not be attributed to any device, with its cause.
CREATE TABLE dead_letters (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source     text COLLATE "C" NOT NULL,      -- events | metrics
    project    text COLLATE "C",
    subject    text        NOT NULL,
    cause      text COLLATE "C" NOT NULL,
    detail     text        NOT NULL,
    hash       bytea       NOT NULL,
    bytes      bytea       NOT NULL,
    size       bigint      NOT NULL,           -- of the message; bytes may be cut
    first_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen       bigint      NOT NULL DEFAULT 1,
    retried_at timestamptz,
    UNIQUE (source, hash, subject, cause)
);

-- How far each projection has come in each project.
CREATE TABLE checkpoints (
    projection text COLLATE "C" NOT NULL,
    project    text COLLATE "C" NOT NULL,
    position   bigint NOT NULL DEFAULT 0,
    failure    text,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (projection, project)
) WITH (fillfactor = 50);

-- NATS user keys that may no longer connect; the account's JWT is made from it.
CREATE TABLE nats_revocations (
    nats_key   text COLLATE "C" PRIMARY KEY,
    revoked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
