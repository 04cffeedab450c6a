-- What the archive holds of each day, and the one way in which retention drops rows. docs/adr says why it is so.
CREATE TABLE archived_days (
    table_name  text COLLATE "C" NOT NULL,
    day         date        NOT NULL,
    file        text        NOT NULL,
    sha256      text        NOT NULL,
    bytes       bigint      NOT NULL,
    rows        bigint      NOT NULL,
    stored_rows bigint      NOT NULL,
    fingerprint numeric     NOT NULL,
    archived_at timestamptz NOT NULL,
    verified_at timestamptz,
    dropped_at  timestamptz,
    PRIMARY KEY (table_name, day)
);
COMMENT ON TABLE archived_days IS 'What the archive holds of each day, and what this database held of it at that moment.';
COMMENT ON COLUMN archived_days.table_name IS 'The table that the rows are from; no unit';
COMMENT ON COLUMN archived_days.day IS 'The day by "timestamp", UTC; a date';
COMMENT ON COLUMN archived_days.file IS 'The file, under archive.url; no unit';
COMMENT ON COLUMN archived_days.sha256 IS 'SHA-256 of the file; hex';
COMMENT ON COLUMN archived_days.bytes IS 'Size of the file; bytes';
COMMENT ON COLUMN archived_days.rows IS 'Rows in the file; a count';
COMMENT ON COLUMN archived_days.stored_rows IS 'Rows that this database held when the file was made, all of them in it; -1: it holds others now; a count';
COMMENT ON COLUMN archived_days.fingerprint IS 'esp_fingerprint of those rows; no unit';
COMMENT ON COLUMN archived_days.archived_at IS 'When the file was made; date and time with zone';
COMMENT ON COLUMN archived_days.verified_at IS 'When it was last read back and found whole; date and time with zone; null: not, or found damaged';
COMMENT ON COLUMN archived_days.dropped_at IS 'When retention last dropped its rows; date and time with zone; null: never';

-- Two sets of rows with the same count and sum are the same: a key is in it once, the hash is of 64 bits.
CREATE FUNCTION esp_fingerprint(which text, first timestamptz, past timestamptz, OUT rows bigint, OUT fingerprint numeric)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    EXECUTE format('SELECT count(*), coalesce(sum(hash_record_extended(t, 0)), 0) FROM %I t'
                   ' WHERE "timestamp" >= $1 AND "timestamp" < $2', which)
    INTO rows, fingerprint USING first, past;
END
$$;
COMMENT ON FUNCTION esp_fingerprint IS 'How many rows a table has from first until past, and the sum of their hashes.';

-- With the rights of who migrated, since the role of the daemon may drop nothing by itself. What it must not lose it
-- sees to here, in one transaction with the drop:
--   hypertable: READ COMMITTED. No row can come into a locked chunk; a writer that waits for it gets a new one.
--   plain table: REPEATABLE READ. What is deleted is what was looked at; a row that comes meanwhile stays.
CREATE FUNCTION esp_drop_days(which text, first timestamptz, past timestamptz, guarded boolean) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    extension_schema name := (SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                              WHERE extname = 'timescaledb');
    isolation text := CASE WHEN extension_schema IS NULL THEN 'repeatable read' ELSE 'read committed' END;
    chunk record;
    known archived_days;
    stored record;
    each date;
BEGIN
    IF which NOT IN ('esp_telemetry', 'diagnostic_results') THEN
        RAISE EXCEPTION 'no table of which days are dropped: %', which;
    END IF;
    IF current_setting('transaction_isolation') <> isolation THEN
        RAISE EXCEPTION 'esp_drop_days must be called in a transaction that is %', isolation;
    END IF;
    IF NOT guarded AND NOT pg_has_role(session_user, (SELECT relowner FROM pg_class WHERE oid = which::regclass), 'USAGE')
    THEN
        RETURN 'only who owns the table may drop what is not archived';
    END IF;
    IF extension_schema IS NOT NULL THEN
        FOR chunk IN SELECT chunk_schema, chunk_name FROM timescaledb_information.chunks
                     WHERE hypertable_schema = current_schema() AND hypertable_name = which
                       AND range_start < past AND range_end > first
                     ORDER BY range_start LOOP
            EXECUTE format('LOCK TABLE %I.%I IN SHARE ROW EXCLUSIVE MODE', chunk.chunk_schema, chunk.chunk_name);
        END LOOP;
    END IF;
    IF which = 'diagnostic_results' AND EXISTS (SELECT FROM diagnostic_results WHERE published_at IS NULL
                                                AND "timestamp" >= first AND "timestamp" < past) THEN
        RETURN 'has alarm events that no broker has accepted yet';
    END IF;
    IF EXISTS (SELECT FROM esp_rollup_marks WHERE bucket >= first AND bucket < past) THEN
        RETURN 'has hours that are not rolled up yet';
    END IF;
    each := (first AT TIME ZONE 'UTC')::date;
    WHILE guarded AND each::timestamp AT TIME ZONE 'UTC' < past LOOP
        SELECT * INTO stored FROM esp_fingerprint(which, each::timestamp AT TIME ZONE 'UTC',
                                                  (each + 1)::timestamp AT TIME ZONE 'UTC');
        IF stored.rows > 0 THEN
            SELECT * INTO known FROM archived_days WHERE table_name = which AND day = each;
            IF NOT FOUND THEN
                RETURN format('%s is not archived', each);
            ELSIF known.verified_at IS NULL THEN
                RETURN format('the archive of %s is not verified', each);
            ELSIF (known.stored_rows, known.fingerprint) IS DISTINCT FROM (stored.rows, stored.fingerprint) THEN
                -- Which makes it due, also where only values have changed.
                UPDATE archived_days SET stored_rows = -1 WHERE table_name = which AND day = each;
                RETURN format('%s has other rows than were archived', each);
            END IF;
        END IF;
        each := each + 1;
    END LOOP;
    -- A writer that came to the locked chunk holds what the drop waits for. It must not be the one who is cut off for it,
    -- which the server decides after deadlock_timeout, 1 s: we give up sooner, and come again.
    PERFORM set_config('lock_timeout', '100ms', true);
    IF extension_schema IS NULL THEN
        EXECUTE format('DELETE FROM %I WHERE "timestamp" >= $1 AND "timestamp" < $2', which) USING first, past;
    ELSE
        EXECUTE format('SELECT %I.drop_chunks($1::regclass, older_than => $3, newer_than => $2)', extension_schema)
        USING which, first, past;
    END IF;
    UPDATE archived_days SET dropped_at = now(), (stored_rows, fingerprint) = (
        SELECT f.rows, f.fingerprint
        FROM esp_fingerprint(which, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC') f)
    WHERE table_name = which AND day >= (first AT TIME ZONE 'UTC')::date AND day::timestamp AT TIME ZONE 'UTC' < past;
    RETURN NULL;
EXCEPTION WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
    RETURN format('is in use: %s', SQLERRM);
END
$$;
COMMENT ON FUNCTION esp_drop_days IS 'Drop the chunks, or delete the rows, from first until past; null, or why they are kept.';

DO $$
BEGIN
    -- Nobody puts a table of his own in the place of ours.
    EXECUTE format('ALTER FUNCTION esp_drop_days SET search_path = %I, pg_temp', current_schema());
    -- A plain table has no chunks to find a day by. This index is of a few pages and costs COPY next to nothing.
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        CREATE INDEX esp_telemetry_by_day ON esp_telemetry USING brin ("timestamp") WITH (pages_per_range = 32);
    END IF;
END
$$;

-- As in 0003: an admin does it where we may not.
REVOKE EXECUTE ON FUNCTION esp_drop_days FROM PUBLIC;
DO $$
BEGIN
    GRANT SELECT, INSERT, UPDATE ON archived_days TO esp_ingest;
    GRANT EXECUTE ON FUNCTION esp_drop_days TO esp_ingest;
    GRANT SELECT ON archived_days TO esp_read;
EXCEPTION WHEN insufficient_privilege OR undefined_object THEN
    RAISE NOTICE 'roles esp_ingest and esp_read were not set up: this role may not (%)', SQLERRM;
END
$$;
