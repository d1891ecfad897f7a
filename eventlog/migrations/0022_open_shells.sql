-- Shells that may be running on devices, each with the token that opened it: command ends them with
-- the token. A row stays until the device has ended the shell by itself: without an attached client,
-- for the grace time.
CREATE TABLE open_shells (
    session       uuid        PRIMARY KEY,
    project       text COLLATE "C" NOT NULL,
    device        uuid        NOT NULL,
    actor         text        NOT NULL,  -- who opened it: 'token:<id>'
    grace_seconds integer     NOT NULL,
    kept_until    timestamptz NOT NULL,
    claimed_until timestamptz NOT NULL   -- until then one process is ending it
);
