"""What PostgreSQL is told about each session of ours: the deadlines of the server, and how it shall plan.

A session that goes straight to the server is told once, when it connects. Through a pooler in transaction mode
(PgBouncer) a session is another one after each transaction. Then every statement carries the settings, in the same
message, for its own transaction only: that costs no round trip, and needs nothing to be set up at the server.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, event

#: All our statements read a few rows by an index. PostgreSQL would not, and would keep to it for a minute or so,
#: with a plan that it made while the table was all but empty.
BY_INDEX = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off"}


def as_options(settings: Mapping[str, str | int]) -> str:
    """Return the settings as the `options` of a connection."""
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def with_each_statement(engine: Engine, settings: Mapping[str, str | int]) -> None:
    """Have every statement on `engine` carry the settings."""
    first = "".join(f"set local {name} = {value}; " for name, value in settings.items())

    def before(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return first + statement, parameters

    event.listen(engine, "before_cursor_execute", before, retval=True)
