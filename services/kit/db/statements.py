"""Statements that PostgreSQL parses and plans once a connection."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult


class PreparedStatement:
    """A statement that PostgreSQL parses and plans once a connection rather than each time.

    `PreparedStatement("name", ["uuid[]", "bigint[]"], "select ... $1 ... $2")`, then `.run(connection, ids, amounts)`.
    """

    def __init__(self, name: str, types: Sequence[str], sql: str) -> None:
        self._name = name
        declared = f"({', '.join(types)})" if types else ""
        given = f"({', '.join(f'%s::{one}' for one in types)})" if types else ""
        self.prepare = f"prepare {name} {declared} as {sql}"
        self._execute = f"execute {name} {given}"

    def run(self, connection: Connection, *values: Any) -> CursorResult[Any]:
        """Execute it with `values`; a list is an array."""
        if self._name not in connection.info:  # which lives as long as the connection to the server
            connection.exec_driver_sql(self.prepare)
            connection.info[self._name] = True
        return connection.exec_driver_sql(self._execute, values)
