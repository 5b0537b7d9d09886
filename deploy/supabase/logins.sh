#!/bin/sh
# Read by the Postgres image after app.sql. The app's owner gets a password, and Sluice a login that
# owns nothing: granted to sluice_runtime in one go, which the migration otherwise makes, and which
# it leaves as it is.
set -eu
psql --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" \
  --set=owner="$OWNER_PASSWORD" --set=runtime="$RUNTIME_PASSWORD" <<'SQL'
alter role app_postgres password :'owner';
create role sluice_runtime nologin;
create role sluice login password :'runtime' in role sluice_runtime;
SQL
