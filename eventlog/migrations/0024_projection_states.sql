-- The state of each projection, for the SQL of other crates: their views for Grafana, and statements
-- that read a projection's rows and its position in one snapshot. All other tables of the log are
-- private to this crate.
CREATE VIEW projection_states AS
SELECT c.projection,
       c.project,
       c.position,
       greatest(h.position - c.position, 0) AS lag,
       c.failure,
       c.updated_at
FROM checkpoints c JOIN heads h USING (project);
