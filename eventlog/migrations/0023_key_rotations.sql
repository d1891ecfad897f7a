-- Position of the event by which a key replaced the device's previous one; NULL for a key with which
-- the device enrolled, and for a rotation that a process of an earlier release recorded: command finds
-- that one in the log when it needs it. (Not here: this migration would lock the table for as long.)
ALTER TABLE device_keys ADD COLUMN rotation_position bigint;
