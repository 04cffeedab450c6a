-- Chunks are compressed once nobody writes to them any more: readings after 7 days, alarm events after 14.
-- One well's rows of one chunk lie together, newest first, as they are asked for.
-- `timescaledb.compress` and add_compression_policy are the names that 2.14 has and 2.19 still takes; the new ones
-- (enable_columnstore, add_columnstore_policy) came with 2.18 and mean the same.
ALTER TABLE esp_telemetry SET (timescaledb.compress, timescaledb.compress_segmentby = 'well_id',
                               timescaledb.compress_orderby = '"timestamp" DESC');
SELECT add_compression_policy('esp_telemetry', INTERVAL '7 days');
ALTER TABLE diagnostic_results SET (timescaledb.compress, timescaledb.compress_segmentby = 'well_id',
                                    timescaledb.compress_orderby = '"timestamp" DESC, event_id');
SELECT add_compression_policy('diagnostic_results', INTERVAL '14 days');
