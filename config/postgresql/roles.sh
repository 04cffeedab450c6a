#!/bin/sh
# The roles beside the owner, once, when the database is new: the PostgreSQL image runs it as the superuser.
# The names are those that sql/0003_roles.sql grants to. Passwords never stand on a command line, where all can read it.
set -eu

password=$(sed -n 's#^[^:]*://[^:@/]*:\([^@]*\)@.*#\1#p' /run/secrets/ingest_dsn)
[ -n "$password" ] || { echo 'roles.sh: no password in the secret ingest_dsn' >&2; exit 1; }

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<SQL
CREATE ROLE esp_ingest NOLOGIN;
CREATE ROLE esp_read NOLOGIN;
CREATE ROLE esp_ingestd LOGIN PASSWORD '$(printf %s "$password" | sed "s/'/''/g")' IN ROLE esp_ingest;
SQL
