#!/bin/sh
# Gives each service a database and a role of its own; a role can reach no other database.
# Safe to run again: it also sets the passwords anew, so that a volume which outlived its secrets stays of use.
# Environment: SERVICES, POSTGRES_USER, POSTGRES_PASSWORD, and <SERVICE>_PASSWORD for each service.
set -eu

as_superuser() {
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres
}

as_superuser <<'SQL'
\getenv user POSTGRES_USER
\getenv password POSTGRES_PASSWORD
alter role :"user" password :'password';
revoke connect on database postgres, template1 from public;
SQL

for service in $SERVICES; do
  SERVICE=$service PASSWORD=$(printenv "$(printf %s "$service" | tr a-z A-Z)_PASSWORD") as_superuser <<'SQL'
\getenv service SERVICE
\getenv password PASSWORD
select format('create role %I', :'service') where not exists (select from pg_roles where rolname = :'service') \gexec
alter role :"service" login password :'password';
select format('create database %I owner %I', :'service', :'service')
  where not exists (select from pg_database where datname = :'service') \gexec
revoke all on database :"service" from public;
SQL
done
