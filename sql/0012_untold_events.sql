-- The alarm events that no broker has accepted yet: few, and asked for at each start. Among the rows of compressed weeks
-- nothing but reading them all finds them, so they are named here; by triggers, since it holds whoever writes the row.
CREATE TABLE esp_untold_events (
    event_id    text             NOT NULL,
    "timestamp" timestamptz      NOT NULL,
    well_id     text COLLATE "C" NOT NULL,
    PRIMARY KEY ("timestamp", event_id)
);
COMMENT ON TABLE esp_untold_events IS 'The rows of diagnostic_results whose published_at is null.';
COMMENT ON COLUMN esp_untold_events.event_id IS 'As in diagnostic_results; no unit';
COMMENT ON COLUMN esp_untold_events."timestamp" IS 'Likewise; date and time with zone';
COMMENT ON COLUMN esp_untold_events.well_id IS 'Likewise; no unit';

CREATE FUNCTION esp_note_untold() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF NEW.published_at IS NULL THEN
        INSERT INTO esp_untold_events VALUES (NEW.event_id, NEW."timestamp", NEW.well_id) ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM esp_untold_events WHERE "timestamp" = NEW."timestamp" AND event_id = NEW.event_id;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION esp_note_untold IS 'Keeps esp_untold_events.';

DO $$
BEGIN
    -- Nobody puts a table of his own in the place of ours.
    EXECUTE format('ALTER FUNCTION esp_note_untold SET search_path = %I, pg_temp', current_schema());
END
$$;
REVOKE EXECUTE ON FUNCTION esp_note_untold FROM PUBLIC;
CREATE TRIGGER esp_untold AFTER INSERT ON diagnostic_results
    FOR EACH ROW WHEN (NEW.published_at IS NULL) EXECUTE FUNCTION esp_note_untold();
CREATE TRIGGER esp_told AFTER UPDATE OF published_at ON diagnostic_results
    FOR EACH ROW EXECUTE FUNCTION esp_note_untold();

INSERT INTO esp_untold_events
SELECT event_id, "timestamp", well_id FROM diagnostic_results WHERE published_at IS NULL;

-- As in 0003: an admin does it where we may not.
DO $$
BEGIN
    GRANT SELECT ON esp_untold_events TO esp_ingest, esp_read;
EXCEPTION WHEN insufficient_privilege OR undefined_object THEN
    RAISE NOTICE 'roles esp_ingest and esp_read were not set up: this role may not (%)', SQLERRM;
END
$$;
