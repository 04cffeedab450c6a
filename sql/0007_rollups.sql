-- Rollups: what each well did in each hour and each day (UTC). docs/adr/0006-rollups-are-tables.md says why they are
-- tables of ours on every edition. The maintenance task keeps them fresh from esp_rollup_marks, which the daemon writes
-- in one transaction with the readings: a bucket that has got rows since it was last counted is never forgotten.
CREATE TABLE esp_rollup_marks (
    bucket    timestamptz NOT NULL,
    well_ids  text[],
    marked_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE esp_rollup_marks IS 'Hours that got readings or alarm events since they were last rolled up.';
COMMENT ON COLUMN esp_rollup_marks.bucket IS 'The beginning of the hour; date and time with zone';
COMMENT ON COLUMN esp_rollup_marks.well_ids IS 'The wells that got them; null: perhaps every well; no unit';
COMMENT ON COLUMN esp_rollup_marks.marked_at IS 'When they came; date and time with zone';

-- telemetry_hourly and telemetry_daily are views of these; sum and count of each channel make means of means exact.
DO $$
DECLARE
    channels CONSTANT text[] := ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = 'esp_telemetry'::regclass
        AND atttypid IN ('double precision'::regtype, to_regtype('esp_value')) AND NOT attisdropped ORDER BY attnum);
    severities CONSTANT text[] := ARRAY['info', 'low', 'medium', 'high', 'critical'];
    name text;
    period text;
    channel text;
    severity text;
    quantity text;
    unit text;
    stored text;
    viewed text;
    notes text;
BEGIN
    FOR name, period IN VALUES ('hourly', 'hour'), ('daily', 'day') LOOP
        stored := '';
        viewed := '';
        notes := '';
        FOREACH channel IN ARRAY channels LOOP
            stored := stored || format('%1$s_min double precision, %1$s_max double precision, %1$s_sum double precision,'
                ' %1$s_count bigint NOT NULL DEFAULT 0, %1$s_last double precision, ', channel);
            viewed := viewed || format('%1$s_min, %1$s_max, %1$s_sum / nullif(%1$s_count, 0) AS %1$s_mean, %1$s_last, ',
                channel);
        END LOOP;
        FOREACH severity IN ARRAY severities LOOP
            stored := stored || format('alarms_%s bigint NOT NULL DEFAULT 0, ', severity);
            viewed := viewed || format('alarms_%s, ', severity);
        END LOOP;
        EXECUTE format('CREATE TABLE esp_rollups_%s (well_id text COLLATE "C" NOT NULL, bucket timestamptz NOT NULL,'
            ' readings bigint NOT NULL DEFAULT 0, uptime_s double precision NOT NULL DEFAULT 0, %s'
            'PRIMARY KEY (well_id, bucket))', name, stored);
        EXECUTE format('CREATE INDEX esp_rollups_%1$s_by_bucket ON esp_rollups_%1$s (bucket)', name);
        EXECUTE format('CREATE VIEW telemetry_%1$s AS SELECT well_id, bucket, readings, uptime_s, %2$s'
            ' FROM esp_rollups_%1$s', name, rtrim(viewed, ', '));
        EXECUTE format('COMMENT ON TABLE esp_rollups_%1$s IS %2$L', name,
            format('What telemetry_%s is made of.', name));
        EXECUTE format('COMMENT ON VIEW telemetry_%1$s IS %2$L', name,
            format('What each well did in each %s (UTC). Values named in bad_channels do not count. As fresh as the last'
                ' pass of maintenance; it stays when the readings are dropped.', period));
        FOREACH stored IN ARRAY ARRAY['esp_rollups_', 'telemetry_'] LOOP
            stored := stored || name;
            EXECUTE format('COMMENT ON COLUMN %s.well_id IS %L', stored, 'The well; no unit');
            EXECUTE format('COMMENT ON COLUMN %s.bucket IS %L', stored,
                format('The beginning of the %s, UTC; date and time with zone', period));
            EXECUTE format('COMMENT ON COLUMN %s.readings IS %L', stored, 'Readings of that time; a count');
            EXECUTE format('COMMENT ON COLUMN %s.uptime_s IS %L', stored,
                'How long the pump turned: from each reading with vsd_frequency of at least 5 Hz or motor_current above'
                ' 2 A to the next that has either, at most 30 min, so that no gap counts as uptime; s');
            FOREACH severity IN ARRAY severities LOOP
                EXECUTE format('COMMENT ON COLUMN %s.alarms_%s IS %L', stored, severity,
                    format('Alarms that were raised as, or escalated to, %s in that time; a count', severity));
            END LOOP;
            FOR channel, quantity, unit IN
                SELECT attname, split_part(said, '; ', 1), split_part(said, '; ', 2)
                FROM (SELECT attname, col_description(attrelid, attnum) AS said FROM pg_attribute
                      WHERE attrelid = 'esp_telemetry'::regclass AND attname = ANY (channels)) AS described
            LOOP
                EXECUTE format('COMMENT ON COLUMN %s.%s_min IS %L', stored, channel, quantity || ', least; ' || unit);
                EXECUTE format('COMMENT ON COLUMN %s.%s_max IS %L', stored, channel, quantity || ', greatest; ' || unit);
                EXECUTE format('COMMENT ON COLUMN %s.%s_last IS %L', stored, channel, quantity || ', newest; ' || unit);
                IF stored LIKE 'telemetry%' THEN
                    EXECUTE format('COMMENT ON COLUMN %s.%s_mean IS %L', stored, channel,
                        quantity || ', mean of the values; ' || unit);
                ELSE
                    EXECUTE format('COMMENT ON COLUMN %s.%s_sum IS %L', stored, channel,
                        quantity || ', sum of the values; ' || unit);
                    EXECUTE format('COMMENT ON COLUMN %s.%s_count IS %L', stored, channel,
                        quantity || ', how many values; a count');
                END IF;
            END LOOP;
        END LOOP;
    END LOOP;
END
$$;

-- What is there already.
INSERT INTO esp_rollup_marks (bucket, well_ids)
SELECT date_trunc('hour', "timestamp", 'UTC'), array_agg(DISTINCT well_id)
FROM (SELECT "timestamp", well_id FROM esp_telemetry UNION ALL SELECT "timestamp", well_id FROM diagnostic_results)
    AS stored
GROUP BY 1;

-- As in 0003: an admin does it where we may not.
DO $$
BEGIN
    GRANT SELECT, INSERT, DELETE ON esp_rollup_marks TO esp_ingest;
    GRANT SELECT, INSERT, UPDATE ON esp_rollups_hourly, esp_rollups_daily TO esp_ingest;
    GRANT SELECT ON telemetry_hourly, telemetry_daily TO esp_ingest, esp_read;
    GRANT SELECT ON esp_rollup_marks, esp_rollups_hourly, esp_rollups_daily TO esp_read;
EXCEPTION WHEN insufficient_privilege OR undefined_object THEN
    RAISE NOTICE 'roles esp_ingest and esp_read were not set up: this role may not (%)', SQLERRM;
END
$$;
