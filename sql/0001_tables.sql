-- Readings, what was refused, and what the diagnosis said. Every column has a comment with its unit.

-- COLLATE "C": the key is compared byte by byte, which is a tenth faster to COPY into.
CREATE TABLE esp_telemetry (
    well_id               text COLLATE "C"  NOT NULL,
    "timestamp"           timestamptz       NOT NULL,
    flow_rate             double precision,
    pip                   double precision,
    motor_current         double precision,
    motor_temp            double precision,
    vibration             double precision,
    vsd_frequency         double precision,
    flow_variance         double precision,
    torque                double precision,
    gor                   double precision,
    discharge_pressure    double precision,
    intake_temp           double precision,
    wellhead_pressure     double precision,
    casing_pressure       double precision,
    current_unbalance     double precision,
    voltage_unbalance     double precision,
    insulation_resistance double precision,
    extra                 jsonb,
    bad_channels          text[],
    received_at           timestamptz       NOT NULL,
    PRIMARY KEY (well_id, "timestamp")
);
COMMENT ON TABLE esp_telemetry IS 'Readings: the values of one well at one time, as its RTU sent them. The first delivery of a (well_id, timestamp) counts.';
COMMENT ON COLUMN esp_telemetry.well_id IS 'The well; no unit';
COMMENT ON COLUMN esp_telemetry."timestamp" IS 'When the RTU took the reading; date and time with zone';
COMMENT ON COLUMN esp_telemetry.flow_rate IS 'Liquid rate at surface; bbl/d';
COMMENT ON COLUMN esp_telemetry.pip IS 'Pump intake pressure; psi';
COMMENT ON COLUMN esp_telemetry.motor_current IS 'Motor current; A';
COMMENT ON COLUMN esp_telemetry.motor_temp IS 'Motor winding temperature; degC';
COMMENT ON COLUMN esp_telemetry.vibration IS 'Vibration; the unit of the well''s vibration_unit: g, mm/s or in/s';
COMMENT ON COLUMN esp_telemetry.vsd_frequency IS 'Output frequency of the variable speed drive; Hz';
COMMENT ON COLUMN esp_telemetry.flow_variance IS 'Variation of the flow as the RTU computes it; %';
COMMENT ON COLUMN esp_telemetry.torque IS 'Shaft torque; N.m';
COMMENT ON COLUMN esp_telemetry.gor IS 'Gas-oil ratio; scf/bbl';
COMMENT ON COLUMN esp_telemetry.discharge_pressure IS 'Pump discharge pressure; psi';
COMMENT ON COLUMN esp_telemetry.intake_temp IS 'Fluid temperature at the intake; degC';
COMMENT ON COLUMN esp_telemetry.wellhead_pressure IS 'Wellhead (tubing) pressure; psi';
COMMENT ON COLUMN esp_telemetry.casing_pressure IS 'Casing pressure; psi';
COMMENT ON COLUMN esp_telemetry.current_unbalance IS 'Unbalance of the phase currents; %';
COMMENT ON COLUMN esp_telemetry.voltage_unbalance IS 'Unbalance of the phase voltages; %';
COMMENT ON COLUMN esp_telemetry.insulation_resistance IS 'Insulation resistance to ground; MOhm';
COMMENT ON COLUMN esp_telemetry.extra IS 'Keys of the payload that are no channel, and values of channels that were no number; JSON, no unit';
COMMENT ON COLUMN esp_telemetry.bad_channels IS 'Channels whose value was no number or outside its plausible range; names, no unit';
COMMENT ON COLUMN esp_telemetry.received_at IS 'When the daemon received the reading; date and time with zone';

CREATE TABLE diagnostic_results (
    event_id           text        NOT NULL,
    alarm_id           text        NOT NULL,
    well_id            text COLLATE "C" NOT NULL,
    "timestamp"        timestamptz NOT NULL,
    diagnosis          text        NOT NULL,
    category           text        NOT NULL,
    severity           text        NOT NULL,
    transition         text        NOT NULL,
    state              text        NOT NULL,
    confidence         double precision,
    actions            jsonb       NOT NULL,
    resolution_time    text        NOT NULL,
    telemetry_snapshot jsonb,
    evidence           jsonb       NOT NULL,
    tree_version       text        NOT NULL,
    published_at       timestamptz,
    event              jsonb       NOT NULL,
    PRIMARY KEY (event_id, "timestamp")
);
COMMENT ON TABLE diagnostic_results IS 'Alarm events: one row per transition of an alarm.';
COMMENT ON COLUMN diagnostic_results.event_id IS 'Derived from well, diagnosis, event time and transition; no unit';
COMMENT ON COLUMN diagnostic_results.alarm_id IS 'Derived from well, diagnosis and the time it was raised; no unit';
COMMENT ON COLUMN diagnostic_results.well_id IS 'The well; no unit';
COMMENT ON COLUMN diagnostic_results."timestamp" IS 'Event time of the reading at which it happened; date and time with zone';
COMMENT ON COLUMN diagnostic_results.diagnosis IS 'What ails the well; a name, no unit';
COMMENT ON COLUMN diagnostic_results.category IS 'The family of the diagnosis; a name, no unit';
COMMENT ON COLUMN diagnostic_results.severity IS 'info, low, medium, high or critical; no unit';
COMMENT ON COLUMN diagnostic_results.transition IS 'raised, escalated, acknowledged, shelved, unshelved or cleared; no unit';
COMMENT ON COLUMN diagnostic_results.state IS 'The alarm after the transition: active, acknowledged, latched, shelved or cleared; no unit';
COMMENT ON COLUMN diagnostic_results.confidence IS 'How sure the diagnosis is; 0 to 1';
COMMENT ON COLUMN diagnostic_results.actions IS 'What people should do, in order; JSON array of text, no unit';
COMMENT ON COLUMN diagnostic_results.resolution_time IS 'How long mending usually takes; text, no unit';
COMMENT ON COLUMN diagnostic_results.telemetry_snapshot IS 'The reading at which it happened; JSON, units as in esp_telemetry';
COMMENT ON COLUMN diagnostic_results.evidence IS 'Feature -> value that the decision rested on; JSON, units by feature';
COMMENT ON COLUMN diagnostic_results.tree_version IS 'Which decision tree judged; no unit';
COMMENT ON COLUMN diagnostic_results.published_at IS 'When the broker accepted the event; date and time with zone; null: not yet';
COMMENT ON COLUMN diagnostic_results.event IS 'The event as published, whole; JSON, no unit';

-- Few rows are ever unpublished: this index stays small, and the start reads nothing else.
CREATE INDEX diagnostic_results_unpublished ON diagnostic_results ("timestamp") WHERE published_at IS NULL;
CREATE INDEX diagnostic_results_by_well ON diagnostic_results (well_id, "timestamp" DESC);

-- The newest event of each alarm, kept apart so that retention of diagnostic_results never forgets a standing alarm.
CREATE TABLE alarm_states (
    well_id     text COLLATE "C" NOT NULL,
    diagnosis   text        NOT NULL,
    alarm_id    text        NOT NULL,
    state       text        NOT NULL,
    severity    text        NOT NULL,
    raised_at   timestamptz NOT NULL,
    "timestamp" timestamptz NOT NULL,
    event       jsonb       NOT NULL,
    PRIMARY KEY (well_id, diagnosis)
);
COMMENT ON TABLE alarm_states IS 'The newest event of each well and diagnosis.';
COMMENT ON COLUMN alarm_states.well_id IS 'The well; no unit';
COMMENT ON COLUMN alarm_states.diagnosis IS 'What ails the well; a name, no unit';
COMMENT ON COLUMN alarm_states.alarm_id IS 'Derived from well, diagnosis and the time it was raised; no unit';
COMMENT ON COLUMN alarm_states.state IS 'active, acknowledged, latched, shelved or cleared; no unit';
COMMENT ON COLUMN alarm_states.severity IS 'info, low, medium, high or critical; no unit';
COMMENT ON COLUMN alarm_states.raised_at IS 'Event time at which it was raised; date and time with zone';
COMMENT ON COLUMN alarm_states."timestamp" IS 'Event time of its newest transition; date and time with zone';
COMMENT ON COLUMN alarm_states.event IS 'Its newest event as published; JSON, no unit';

CREATE VIEW active_alarms AS
SELECT well_id, diagnosis, alarm_id, state, severity, raised_at, "timestamp",
       event ->> 'category' AS category, event ->> 'message' AS message, event ->> 'role' AS role,
       (event ->> 'confidence')::double precision AS confidence, event -> 'actions' AS actions,
       event ->> 'resolution_time' AS resolution_time, event -> 'evidence' AS evidence,
       (event ->> 'recurring')::boolean AS recurring, (event ->> 'count')::integer AS count
FROM alarm_states
WHERE state <> 'cleared';
COMMENT ON VIEW active_alarms IS 'One row per standing alarm.';

CREATE TABLE dead_letters (
    dead_letter_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    first_received_at timestamptz NOT NULL,
    received_at       timestamptz NOT NULL,
    times             bigint      NOT NULL DEFAULT 1,
    topic             text        NOT NULL,
    payload           bytea       NOT NULL,
    reason            text        NOT NULL,
    detail            jsonb       NOT NULL,
    fingerprint       bytea       NOT NULL UNIQUE
);
COMMENT ON TABLE dead_letters IS 'Messages of which something was refused, untouched; the same message again raises times.';
COMMENT ON COLUMN dead_letters.dead_letter_id IS 'Its number; no unit';
COMMENT ON COLUMN dead_letters.first_received_at IS 'When it came first; date and time with zone';
COMMENT ON COLUMN dead_letters.received_at IS 'When it came last; date and time with zone';
COMMENT ON COLUMN dead_letters.times IS 'How often it came; a count';
COMMENT ON COLUMN dead_letters.topic IS 'Where it came; no unit';
COMMENT ON COLUMN dead_letters.payload IS 'What came, untouched; of a message that is too large its first 64 KiB; bytes';
COMMENT ON COLUMN dead_letters.reason IS 'Why it was refused, of a closed list; of several the first; no unit';
COMMENT ON COLUMN dead_letters.detail IS 'Which elements, and why; JSON, no unit';
COMMENT ON COLUMN dead_letters.fingerprint IS 'SHA-256 of topic and payload; bytes';
