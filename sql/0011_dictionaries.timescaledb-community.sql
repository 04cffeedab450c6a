-- Channels compress to half or a third of what they did. The columnstore keeps a double precision as the bits in which it
-- differs from its neighbour: few in a whole number, nearly all where there is a decimal, however few values come. Of a
-- type that it does not know it keeps each value of a batch once, and a few bits a row that say which. So on this edition
-- the channels are of a domain over double precision that forbids nothing: the same numbers, the same to every client,
-- which is told double precision; COPY and reading cost the same. But for one thing: of 0 and -0, which are equal, both
-- may come back as the one of them that is met first.
DO $$
DECLARE
    channels CONSTANT text[] := ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = 'esp_telemetry'::regclass
        AND atttypid = 'double precision'::regtype AND NOT attisdropped ORDER BY attnum);
BEGIN
    IF channels = '{}' THEN
        RETURN;
    END IF;
    IF to_regtype('esp_value') IS NULL THEN
        CREATE DOMAIN esp_value AS double precision;
        COMMENT ON DOMAIN esp_value IS 'What a channel said, as a type that compresses well; the unit is its column''s';
    END IF;
    -- A table that is to be compressed cannot be changed. No row is written, so it takes no time.
    ALTER TABLE esp_telemetry SET (timescaledb.compress = false);
    EXECUTE (SELECT 'ALTER TABLE esp_telemetry ' || string_agg(format('ALTER COLUMN %I TYPE esp_value', channel), ', ')
             FROM unnest(channels) AS channel);
    ALTER TABLE esp_telemetry SET (timescaledb.compress, timescaledb.compress_segmentby = 'well_id',
                                   timescaledb.compress_orderby = '"timestamp" DESC');
EXCEPTION WHEN feature_not_supported OR object_not_in_prerequisite_state THEN
    -- Days that are compressed, a view of the site's own: all works as it did. docs/operations.md says how to get there.
    RAISE NOTICE 'channels go on being compressed as bits: %', SQLERRM;
END
$$;
