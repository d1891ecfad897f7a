-- The order of a list at the start of a walk through its pages, for lists that are sorted by what
-- changes meanwhile. Query writes it; nothing else depends on it, so a crash may empty it.
CREATE UNLOGGED TABLE list_walks (
    walk       uuid        PRIMARY KEY,
    project    text COLLATE "C" NOT NULL,
    owner      text        NOT NULL,  -- who lists: 'token:<id>'
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    devices    bytea       NOT NULL   -- the ids in their order, 16 bytes each
);
-- Uncompressed, so that a page reads no more than its part.
ALTER TABLE list_walks ALTER COLUMN devices SET STORAGE EXTERNAL;
