-- Least privilege: esp_ingest writes and never changes the schema, esp_read reads; who migrates owns the tables.
-- Grant them to login roles: GRANT esp_ingest TO esp_ingestd. Where this role may not create roles, an admin does:
-- the block says so and the rest works without.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['esp_ingest', 'esp_read'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- roles are the server's: another of its databases was migrated at the same time
            END;
        END IF;
    END LOOP;
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO esp_ingest', current_database());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO esp_ingest, esp_read', current_schema());
    GRANT SELECT ON esp_telemetry, diagnostic_results, alarm_states, active_alarms, dead_letters,
        esp_schema_migrations TO esp_ingest, esp_read;
    GRANT INSERT ON esp_telemetry, diagnostic_results, alarm_states, dead_letters TO esp_ingest;
    GRANT UPDATE ON diagnostic_results, alarm_states, dead_letters TO esp_ingest;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'roles esp_ingest and esp_read were not set up: this role may not (%)', SQLERRM;
END
$$;
