"""Alembic's environment. Run by Alembic only."""

from alembic import context
from sqlalchemy import create_engine, text

from services.kit.db.migrations import FORMER_VERSION_TABLE, VERSION_TABLE, AnotherIsUnderWay

LOCK = 7_016_996_765_293_437_281  # any constant: one migration of a database at a time

TAKE_OVER = f"""do $$ begin
    if to_regclass('{VERSION_TABLE}') is null and to_regclass('{FORMER_VERSION_TABLE}') is not null then
        create table {VERSION_TABLE} (like {FORMER_VERSION_TABLE} including all);
        insert into {VERSION_TABLE} select * from {FORMER_VERSION_TABLE};
    end if;
end $$"""

attributes = context.config.attributes
engine = create_engine(
    attributes["url"],
    hide_parameters=True,
    connect_args={"connect_timeout": 10, "options": f"-c lock_timeout={int(attributes['lock_s'] * 1000)}"},
)
try:
    with engine.connect() as connection:
        # Do not wait for it here: who waits inside a statement has a snapshot, for the end of which a concurrent build
        # of an index would wait in turn.
        if not connection.execute(text("select pg_try_advisory_lock(:lock)"), {"lock": LOCK}).scalar():
            raise AnotherIsUnderWay
        connection.exec_driver_sql(TAKE_OVER)
        connection.commit()
        context.configure(connection=connection, target_metadata=attributes["metadata"], version_table=VERSION_TABLE)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
finally:
    engine.dispose()
