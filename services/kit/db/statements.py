"""Statements with parameters that have names, which PostgreSQL parses and plans once per connection."""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, get_args, get_type_hints
from uuid import UUID

from sqlalchemy import Connection, CursorResult

#: The type of an array's elements, by the annotation of a field.
COLUMN_TYPES = {UUID: "uuid", bool: "boolean", int: "bigint", str: "text", bytes: "bytea"}

#: The option of an engine that says whether statements are prepared. A pooler in transaction mode may give each
#: transaction another connection to the server, which knows nothing of what was prepared on the last one.
PREPARE = "prepare"

Type = str | type[tuple[Any, ...]]


class PreparedStatement:
    """A statement that PostgreSQL parses and plans once per connection rather than each time.

    The SQL has a parameter's name in braces, and the keywords give each its type: one of PostgreSQL's, or a NamedTuple.
    For a NamedTuple, pass a list of rows. SQL sees them as a table called `given`, in the order of the list, with a
    column `number` from 1. Each field is sent as one array:

        ADD = PreparedStatement("add", "insert into things (id, size) select id, size from {things}", things=Thing)
        ADD.run(connection, things=[Thing(id_, 5), ...])

    It names the columns that it returns. A `*` would grow with its table: the next migration of the table would make
    the statement fail in every process that has prepared it ("cached plan must not change result type").
    """

    def __init__(self, name: str, sql: str, before: str = "", **parameters: Type) -> None:
        """`before` are the common table expressions that `sql` needs, or that are done with it."""
        self.name = name
        self._rows = {one: type_ for one, type_ in parameters.items() if not isinstance(type_, str)}
        types: dict[str, str] = {}  # of $1, $2, ...
        places: dict[str, str] = {}
        plain: dict[str, str] = {}
        for parameter, type_ in parameters.items():
            first = len(types) + 1
            types |= (arrays := _arrays(parameter, type_))
            places[parameter] = _place(type_, [f"${number}" for number in range(first, len(types) + 1)])
            plain[parameter] = _place(type_, [f"%({name})s::{one}" for name, one in arrays.items()])
        self.parameters = list(types)
        declared = f"({', '.join(types.values())})" if types else ""
        given = f"({', '.join(f'%s::{one}' for one in types.values())})" if types else ""
        whole = _with(before, sql)
        self.prepare = f"prepare {name} {declared} as {whole.format(**places)}"
        self._execute = f"execute {name} {given}"
        self._given = list(parameters)
        self.plain = f"/* {name} */ {whole.replace('%', '%%').format(**plain)}"

    def run(self, connection: Connection, **values: Any) -> CursorResult[Any]:
        """Execute it; a list is an array, and rows are given as a list of their NamedTuple."""
        if not connection.get_execution_options().get(PREPARE, True):
            return connection.exec_driver_sql(self.plain, dict(zip(self.parameters, self._plain(values), strict=True)))
        if self.name not in connection.info:  # which lives as long as the connection to the server
            connection.exec_driver_sql(self.prepare)
            connection.info[self.name] = True
        return connection.exec_driver_sql(self._execute, tuple(self._plain(values)))

    def _plain(self, values: dict[str, Any]) -> Iterator[Any]:
        for name in self._given:
            if name in self._rows:
                yield from columns(self._rows[name], values[name])
            else:
                yield _plain(values[name])


def columns(row: type[tuple[Any, ...]], rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Turn rows into one list for each field, as the driver takes them."""
    if not rows:
        return [[] for _ in get_type_hints(row)]
    return [[_plain(value) for value in column] for column in zip(*rows, strict=True)]


def _with(before: str, sql: str) -> str:
    return f"with {before} {sql}" if before else sql


def _plain(value: Any) -> Any:
    """Return a value as the driver takes it."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def _arrays(parameter: str, type_: Type) -> dict[str, str]:
    """Return the types of what a parameter becomes: itself, or an array for each field of its rows."""
    if isinstance(type_, str):
        return {parameter: type_}
    types = {}
    for field, hint in get_type_hints(type_).items():
        [kind, *_] = [one for one in get_args(hint) or (hint,) if one is not type(None)]
        column = next(column for known, column in COLUMN_TYPES.items() if issubclass(kind, known))
        types[f"{parameter}.{field}"] = f"{column}[]"
    return types


def _place(type_: Type, given: Sequence[str]) -> str:
    """Return what stands in the SQL for a parameter whose values are `given`: one, or those of the columns of rows."""
    if isinstance(type_, str):
        return given[0]
    names = ", ".join([*get_type_hints(type_), "number"])
    return f"unnest({', '.join(given)}) with ordinality as given ({names})"
