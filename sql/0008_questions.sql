-- What people ask of all wells at once must not read everything: alarm events and dead letters of a period. Both are few
-- beside the readings, which get no index but their key.
CREATE INDEX diagnostic_results_by_time ON diagnostic_results ("timestamp");
CREATE INDEX dead_letters_by_time ON dead_letters (received_at);
-- A row a well and diagnosis stays in alarm_states for ever; those that stand are few.
CREATE INDEX alarm_states_standing ON alarm_states (well_id) WHERE state <> 'cleared';
