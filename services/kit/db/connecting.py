"""Connecting to PostgreSQL and waiting for it, without stopping the event loop and within a deadline.

Under eventlet psycopg2 ignores its `connect_timeout`, and libpq would look host names up by itself, in a way that stops
the whole process. `statement_timeout` says nothing of a server that is frozen.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from eventlet import Timeout
from eventlet.hubs import trampoline
from psycopg2 import extensions
from sqlalchemy import Dialect, Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError

from services.kit.dns import NAMES
from services.kit.hosts import shares

WRITABLE = "target_session_attrs"
COMMAND_S = 10  # for each host of a URL, one of which may be a frozen primary


def with_driver(url: str) -> str:
    """Return the URL with what we need spelled out.

    That is psycopg2, as SQLAlchemy 2.1 takes another driver where none is named, and a server that takes writes, so
    that a failover is followed, unless the URL asks for something else.
    """
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg2")
    if WRITABLE not in parsed.query:
        parsed = parsed.update_query_dict({WRITABLE: "read-write"})
    return parsed.render_as_string(hide_password=False)


@contextmanager
def engine_of(url: str, **options: Any) -> Iterator[Engine]:
    """Give an engine for a command, which works outside of a service, and dispose of it at the end.

    Connecting has a deadline of COMMAND_S. `options` are those of `create_engine`.
    """
    engine = create_engine(
        with_driver(url), hide_parameters=True, connect_args={"connect_timeout": COMMAND_S}, **options
    )
    try:
        yield engine
    finally:
        engine.dispose()


def connect(timeout_s: float, dialect: Dialect, record: Any, args: Any, options: dict[str, Any]) -> Any:
    """Connect to the first host of the URL that fits it; psycopg2.OperationalError after `timeout_s` seconds.

    SQLAlchemy's `do_connect` event. libpq would look the names up by itself, and stop the event loop meanwhile. With
    our wait callback it would also wait for a silent host, and never come to the next one.
    """
    hosts = str(options.get("host", "")).split(",")
    ports = str(options.get("port", "")).split(",")
    if "hostaddr" in options or "service" in options:
        return None  # libpq knows
    places = list(zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True))
    failure: Exception = psycopg2.OperationalError("there is no host")
    for (host, port), host_s in shares(places, timeout_s):
        try:
            to = {**options, "host": host, "port": port} if host else options
            for address, address_s in shares(_addresses(host, host_s), host_s):
                try:
                    with Timeout(address_s, psycopg2.OperationalError(f"{host} did not answer in {address_s:.1f} s")):
                        return dialect.connect(**to, **({"hostaddr": address} if address else {}))
                except psycopg2.OperationalError as error:
                    failure = error
        except OSError as error:
            failure = psycopg2.OperationalError(f"{host}: {error}")
    raise failure


def why_away(error: DBAPIError) -> str:
    """Return on one line why there is no connection, in the words of libpq or of the server: neither says a password.

    An answer to a statement is only named, as its words may have values of rows.
    """
    original = error.orig
    if getattr(original, "pgcode", None) or not str(original).strip():
        return type(original).__name__
    return " ".join(str(original).split())


def _addresses(host: str, timeout_s: float) -> list[str]:
    """Return the addresses of `host`; an empty one for a Unix socket."""
    return [""] if not host or host.startswith(("/", "@")) else NAMES.addresses(host, timeout_s)


def wait(connection: Any, timeout_s: float) -> None:
    """Wait for PostgreSQL in this green thread only (psycopg2's wait callback), `timeout_s` at the most.

    psycopg2 closes the connection when its callback raises, so a late answer is never taken for another's.
    """
    deadline = time.monotonic() + timeout_s
    silent = psycopg2.OperationalError(f"the database did not answer in {timeout_s:g} s")
    while (state := connection.poll()) != extensions.POLL_OK:
        reading = state == extensions.POLL_READ
        trampoline(
            connection.fileno(),
            read=reading,
            write=not reading,
            timeout=max(0, deadline - time.monotonic()),
            timeout_exc=silent,
        )
