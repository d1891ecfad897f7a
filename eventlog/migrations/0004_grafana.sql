-- What Grafana may read: views of its own, with nothing secret in them. No record, no salt, no key,
-- no bytes. Who may read them is granted by the read side (query/src/grafana.rs), which also makes
-- the views on read models.
--
-- A view's columns are for ever: dashboards of others name them. New ones come at the end.
CREATE SCHEMA grafana;

-- The projects, and where their logs end.
CREATE VIEW grafana.projects AS
SELECT project, position, recorded_at AS changed_at FROM heads;

-- That something happened, when, and to which device; not what it says.
CREATE VIEW grafana.events AS
SELECT project,
       position,
       type,
       stream,
       CASE WHEN stream LIKE 'device%/%' THEN split_part(stream, '/', 2) END AS device,
       actor,
       recorded_at,
       -- From when the device says that it happened until it was in the log.
       CASE WHEN stream LIKE 'device-report/%'
            THEN extract(epoch FROM recorded_at)::double precision - occurred_at / 1e6
       END AS delay_seconds
FROM events;

-- What could not be attributed or written, without its bytes.
CREATE VIEW grafana.dead_letters AS
SELECT id, source, project, subject, cause, size, first_seen, last_seen, seen, retried_at
FROM dead_letters;

-- Who is at work: a lease that is held has a process behind it.
CREATE VIEW grafana.work AS
SELECT name,
       CASE WHEN name LIKE 'ingest-%' THEN 'process'
            WHEN name = 'presence' THEN 'presence'
            WHEN name LIKE 'events-%' THEN 'partition'
            ELSE 'other' END AS kind,
       expires_at,
       expires_at > clock_timestamp() AS held
FROM leases;
