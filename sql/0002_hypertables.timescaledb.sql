-- Chunks: a day of readings, a week of alarm events. Rows that are there already are moved.
-- create_default_indexes off: an index on time alone serves nothing that the keys do not, and costs a fifth of COPY.
SELECT create_hypertable('esp_telemetry', 'timestamp', chunk_time_interval => interval '1 day',
                         create_default_indexes => false, migrate_data => true);
SELECT create_hypertable('diagnostic_results', 'timestamp', chunk_time_interval => interval '7 days',
                         create_default_indexes => false, migrate_data => true);
