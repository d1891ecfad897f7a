-- What the database users of the roles need and cannot be granted (docs/decisions/0021).

-- Only the owner of the log may attach partitions: these two do it for roles that append.
CREATE FUNCTION muster_ensure_project(wanted text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    part text := 'events_' || replace(wanted, '-', '_');
BEGIN
    IF wanted !~ '^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$' THEN
        RAISE EXCEPTION 'no name of a project: %', wanted;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('muster-partition:' || part, 0));
    -- The catalog as a table: to_regclass may answer from this session's own cache.
    IF NOT EXISTS (SELECT FROM pg_class WHERE relname = part AND pg_table_is_visible(oid)) THEN
        EXECUTE format(
            'CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
                 CONSTRAINT %I CHECK (project = %L)) PARTITION BY RANGE (position)',
            part, part || '_project', wanted);
        EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES IN (%L)', part, wanted);
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', part, part || '_project');
    END IF;
    INSERT INTO heads (project) VALUES (wanted) ON CONFLICT DO NOTHING;
END $$;

CREATE FUNCTION muster_ensure_range(wanted text, range_number bigint, size bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    parent text := 'events_' || replace(wanted, '-', '_');
    part text := parent || '_' || range_number;
    first bigint := range_number * size + 1;
    beyond bigint := (range_number + 1) * size + 1;
BEGIN
    IF wanted !~ '^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$' OR range_number < 0 OR size < 1 THEN
        RAISE EXCEPTION 'no range of a project: % %', wanted, range_number;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('muster-partition:' || part, 0));
    IF NOT EXISTS (SELECT FROM pg_class WHERE relname = part AND pg_table_is_visible(oid)) THEN
        EXECUTE format(
            'CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
                 CONSTRAINT %I CHECK (project = %L AND position >= %s AND position < %s))',
            part, parent, part || '_range', wanted, first, beyond);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
            parent, part, first, beyond);
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', part, part || '_range');
    END IF;
END $$;

-- A caller's temporary tables come last: they cannot stand in for those of the log.
DO $$ BEGIN
    EXECUTE format(
        'ALTER FUNCTION muster_ensure_project(text) SET search_path = %I, pg_temp',
        current_schema());
    EXECUTE format(
        'ALTER FUNCTION muster_ensure_range(text, bigint, bigint) SET search_path = %I, pg_temp',
        current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION muster_ensure_project(text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION muster_ensure_range(text, bigint, bigint) FROM PUBLIC;

-- The newest use of each API token that is not in the log yet: a role that may not write the log
-- leaves it here, and command records it.
CREATE TABLE token_uses (
    project text COLLATE "C" NOT NULL,
    token   uuid        NOT NULL,
    used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    address text,
    PRIMARY KEY (project, token)
);
