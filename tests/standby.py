"""Turning a PostgreSQL into a standby and back, as far as its clients can see."""

from contextlib import closing

import psycopg2
from sqlalchemy import make_url

from services.local.net import wait_for
from services.local.postgres import Postgres


def plain(url: str) -> str:
    """The URL as libpq reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def set_read_only(server: Postgres, read_only: bool) -> None:
    """Have the server refuse writes on all of its connections, or take them; returns when it does."""
    with closing(psycopg2.connect(plain(server.url("postgres")))) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"alter system set default_transaction_read_only = {'on' if read_only else 'off'}")
        cursor.execute("select pg_reload_conf()")
    wait_for(lambda: is_read_only(server) == read_only, 5, "the server to have changed")


def is_read_only(server: Postgres) -> bool:
    with closing(psycopg2.connect(plain(server.url("postgres")))) as connection, connection.cursor() as cursor:
        cursor.execute("show transaction_read_only")
        return bool(cursor.fetchone() == ("on",))
