-- How far files are loaded that `esp-ingestd backfill` has not finished. It stands beside the rows, and changes in one
-- transaction with them: a load that was killed goes on exactly where its last committed row is, also when the database
-- was restored from an older copy in between, and a file is never taken for loaded in a database that has not got it.
CREATE TABLE esp_backfills (
    file        text        PRIMARY KEY,
    size_bytes  bigint      NOT NULL,
    modified_ns bigint      NOT NULL,
    "offset"    bigint      NOT NULL,
    line        bigint      NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE esp_backfills IS 'How far each file of an unfinished `esp-ingestd backfill` is loaded.';
COMMENT ON COLUMN esp_backfills.file IS 'The file, with its whole path; no unit';
COMMENT ON COLUMN esp_backfills.size_bytes IS 'Its size, by which a changed file is known; bytes';
COMMENT ON COLUMN esp_backfills.modified_ns IS 'When it was modified, by which a changed file is known; ns since 1970 UTC';
COMMENT ON COLUMN esp_backfills."offset" IS 'What of it is loaded; bytes, of Parquet rows';
COMMENT ON COLUMN esp_backfills.line IS 'What of it is loaded; lines, of Parquet rows';
COMMENT ON COLUMN esp_backfills.updated_at IS 'When that was committed; date and time with zone';

-- What was refused can be stored later, and is no dead letter then. As in 0003: an admin does it where we may not.
DO $$
BEGIN
    GRANT SELECT, INSERT, UPDATE, DELETE ON esp_backfills TO esp_ingest;
    GRANT DELETE ON dead_letters TO esp_ingest;
    GRANT SELECT ON esp_backfills TO esp_read;
EXCEPTION WHEN insufficient_privilege OR undefined_object THEN
    RAISE NOTICE 'roles esp_ingest and esp_read were not set up: this role may not (%)', SQLERRM;
END
$$;
