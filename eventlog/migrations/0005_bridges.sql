-- Websockets to devices that a process carries: one that is not kept any more belongs to a process
-- that is gone, and another one writes down how its session stands.
CREATE TABLE bridges (
    id         uuid        PRIMARY KEY,
    project    text COLLATE "C" NOT NULL,
    device     uuid        NOT NULL,
    session    uuid        NOT NULL,
    is_shell   boolean     NOT NULL,  -- somebody is attached; else the session ends with it
    actor      text        NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX bridges_session ON bridges (session);
