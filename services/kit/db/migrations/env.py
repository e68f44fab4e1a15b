"""Alembic's environment. Run by Alembic only."""

from alembic import context
from sqlalchemy import create_engine, text

from services.kit.db.migrations import AnotherIsUnderWay

LOCK = 7_016_996_765_293_437_281  # any constant: one migration of a database at a time

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
        connection.commit()
        context.configure(connection=connection, target_metadata=attributes["metadata"])
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
finally:
    engine.dispose()
