-- The schema that keeps track of itself: which migrations this database has.
CREATE TABLE IF NOT EXISTS esp_schema_migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE esp_schema_migrations IS 'Which migrations of sql/ this database has.';
COMMENT ON COLUMN esp_schema_migrations.version IS 'The number of the file; no unit';
COMMENT ON COLUMN esp_schema_migrations.name IS 'The name of the file; no unit';
COMMENT ON COLUMN esp_schema_migrations.applied_at IS 'When it was applied; date and time with zone';
