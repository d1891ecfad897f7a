-- Proof that the command role recorded an event, where the event needs one (docs/decisions/0020): a
-- COSE message. NULL for what devices and ingest record, and for events from before this version.
ALTER TABLE events ADD COLUMN authority bytea;
