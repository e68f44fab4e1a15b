"""Alembic's environment. Run by Alembic only."""
from alembic import context
from sqlalchemy import create_engine, text

LOCK = 7_016_996_765_293_437_281  # any constant: one migration of a database at a time

engine = create_engine(context.config.attributes["url"], hide_parameters=True,
                       connect_args={"connect_timeout": 10})
with engine.connect() as connection:
    connection.execute(text("select pg_advisory_lock(:lock)"), {"lock": LOCK})
    connection.commit()
    context.configure(connection=connection, target_metadata=context.config.attributes["metadata"])
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
engine.dispose()
