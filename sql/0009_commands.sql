-- What people do with alarms: who commanded what, when and why; and how an alarm stands, in the order of its events.
-- Times of commands are the daemon's, those of readings the RTU's: only the number of an event says which came later.
ALTER TABLE alarm_states ADD COLUMN seq integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN alarm_states.seq IS 'The place of that event among those of its alarm, from 1; 0 of one by an older version; a number';

CREATE TABLE alarm_commands (
    command_id  text             PRIMARY KEY,
    received_at timestamptz      NOT NULL,
    well_id     text COLLATE "C" NOT NULL,
    alarm_id    text             NOT NULL,
    command     text             NOT NULL,
    "by"        text             NOT NULL,
    comment     text             NOT NULL,
    duration_s  double precision NOT NULL
);
CREATE INDEX alarm_commands_by_well ON alarm_commands (well_id, received_at DESC);
COMMENT ON TABLE alarm_commands IS 'Commands from SCADA that changed something.';
COMMENT ON COLUMN alarm_commands.command_id IS 'The event_id of the event that tells of it; of the reset of a well, one of its own; no unit';
COMMENT ON COLUMN alarm_commands.received_at IS 'When the daemon received it; date and time with zone';
COMMENT ON COLUMN alarm_commands.well_id IS 'The well; no unit';
COMMENT ON COLUMN alarm_commands.alarm_id IS 'The alarm; empty where the baseline of the well was reset; no unit';
COMMENT ON COLUMN alarm_commands.command IS 'acknowledge, shelve, unshelve or reset; no unit';
COMMENT ON COLUMN alarm_commands."by" IS 'Who commanded it, as SCADA says; no unit';
COMMENT ON COLUMN alarm_commands.comment IS 'Why, as SCADA says; no unit';
COMMENT ON COLUMN alarm_commands.duration_s IS 'For how long it was shelved; s; 0 of any other command';

CREATE OR REPLACE VIEW active_alarms AS
SELECT well_id, diagnosis, alarm_id, state, severity, raised_at, "timestamp",
       event ->> 'category' AS category, event ->> 'message' AS message, event ->> 'role' AS role,
       (event ->> 'confidence')::double precision AS confidence, event -> 'actions' AS actions,
       event ->> 'resolution_time' AS resolution_time, event -> 'evidence' AS evidence,
       (event ->> 'recurring')::boolean AS recurring, (event ->> 'count')::integer AS count,
       coalesce((event ->> 'acknowledged')::boolean, false) AS acknowledged,
       nullif(event ->> 'shelved_until', '')::timestamptz AS shelved_until
FROM alarm_states
WHERE state <> 'cleared';
COMMENT ON COLUMN active_alarms.well_id IS 'The well; no unit';
COMMENT ON COLUMN active_alarms.diagnosis IS 'What ails the well; a name, no unit';
COMMENT ON COLUMN active_alarms.alarm_id IS 'Derived from well, diagnosis and the time it was raised; no unit';
COMMENT ON COLUMN active_alarms.state IS 'active, acknowledged, latched or shelved; no unit';
COMMENT ON COLUMN active_alarms.severity IS 'info, low, medium, high or critical; no unit';
COMMENT ON COLUMN active_alarms.raised_at IS 'Event time at which it was raised; date and time with zone';
COMMENT ON COLUMN active_alarms."timestamp" IS 'Event time of its newest transition; date and time with zone';
COMMENT ON COLUMN active_alarms.category IS 'The family of the diagnosis; a name, no unit';
COMMENT ON COLUMN active_alarms.message IS 'What was found, in a sentence; text, no unit';
COMMENT ON COLUMN active_alarms.role IS 'primary or secondary; no unit';
COMMENT ON COLUMN active_alarms.confidence IS 'How sure the diagnosis is; 0 to 1';
COMMENT ON COLUMN active_alarms.actions IS 'What people should do, in order; JSON array of text, no unit';
COMMENT ON COLUMN active_alarms.resolution_time IS 'How long mending usually takes; text, no unit';
COMMENT ON COLUMN active_alarms.evidence IS 'Feature -> value that the decision rested on; JSON, units by feature';
COMMENT ON COLUMN active_alarms.recurring IS 'Whether it keeps coming back; no unit';
COMMENT ON COLUMN active_alarms.count IS 'How often it came; a count';
COMMENT ON COLUMN active_alarms.acknowledged IS 'Whether somebody has seen it; no unit';
COMMENT ON COLUMN active_alarms.shelved_until IS 'When its shelving ends; date and time with zone; null: not shelved';

-- As in 0003: an admin does it where we may not.
DO $$
BEGIN
    GRANT SELECT, INSERT ON alarm_commands TO esp_ingest;
    GRANT SELECT ON alarm_commands TO esp_read;
EXCEPTION WHEN insufficient_privilege OR undefined_object THEN
    RAISE NOTICE 'roles esp_ingest and esp_read were not set up: this role may not (%)', SQLERRM;
END
$$;
