-- The schema that keeps track of itself: which migrations this database has.
CREATE TABLE IF NOT EXISTS esp_schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
