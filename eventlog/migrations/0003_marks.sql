-- What tells devices apart before they have proved anything: the key that one was made known with,
-- the machine id that one enrolled with. Kept in the append transaction, like the keys.
CREATE TABLE device_marks (
    project text COLLATE "C" NOT NULL,
    kind    text COLLATE "C" NOT NULL,  -- key | machine
    mark    bytea NOT NULL,
    device  uuid  NOT NULL,
    PRIMARY KEY (project, kind, mark, device)
);
CREATE INDEX device_marks_device ON device_marks (project, device);
