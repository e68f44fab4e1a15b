"""Rows in the order of their commits, for readers that must not pass one over.

Neither an identity nor a time is that order: who began first may commit last, and a reader that has gone past the place
of such a row never sees it. So each row keeps the id of its transaction, and nobody reads beyond the first transaction
that is still under way: everything before it is final. (PostgreSQL manual, "Transaction ID and Snapshot Information
Functions": `pg_snapshot_xmin`.)

A transaction that writes for long, in any database of the server, delays what began after it, and loses nothing.

What was restored into another server has the ids of the old one; see `forget_other_histories`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

from services.kit.db.connecting import engine_of
from services.kit.db.statements import PreparedStatement

#: The SQL of a condition: the row is final, and so is every row before it.
FINAL = "transaction < pg_snapshot_xmin(pg_current_snapshot())"

HERE = PreparedStatement(
    "here",
    """
    select system_identifier as history, pg_snapshot_xmin(now)::text::bigint as final,
        pg_snapshot_xmax(now)::text::bigint as next
    from pg_control_system(), pg_current_snapshot() as now""",
)

FORGET = "update {table} set transaction = '0' where transaction >= pg_snapshot_xmax(pg_current_snapshot())"


class Xid8(UserDefinedType[str]):
    """PostgreSQL's id of a transaction, of 64 bits, so that it never begins anew."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


ischema_names["xid8"] = Xid8  # else SQLAlchemy does not know it when it compares tables with models


class InCommitOrder:
    """A row with the id of the transaction that has inserted it. Index it with the row's `id`, which is a UUID."""

    transaction: Mapped[str] = mapped_column(Xid8, server_default=text("pg_current_xact_id()"), deferred=True)


class Position(NamedTuple):
    """A place between two rows: everything up to it has been seen.

    `history` is the server that has counted the transactions.
    """

    history: int
    transaction: int
    id: UUID

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @classmethod
    def of(cls, text_: str) -> "Position":
        """Return the position that is written as `text_`, or BEGINNING. Raises ValueError."""
        if text_ == "beginning":
            return BEGINNING
        history, transaction, id_ = text_.split(".")
        position = cls(int(history), int(transaction), UUID(id_))
        if str(position) != text_ or not (0 <= position.history < 2**63 and 0 <= position.transaction < 2**63):
            raise ValueError("it is not ours")
        return position


NOWHERE = UUID(int=0)
BEGINNING = Position(0, 0, NOWHERE)


def start(connection: Connection, after: Position | None) -> Position:
    """Return where a reader begins: now without `after`, else there."""
    [place] = starts(connection, [after])
    return place


def starts(connection: Connection, after: Sequence[Position | None]) -> list[Position]:
    """Return for each of many readers where it begins, by one statement; see `start`."""
    here = HERE.run(connection).one()
    return [_start(here, one) for one in after]


def _start(here: Any, after: Position | None) -> Position:
    """Return where a reader begins on a server that is `here`.

    A position of another history says nothing of ours, so its reader begins at the beginning, and misses nothing.
    """
    if after is None:
        return Position(here.history, here.final, NOWHERE)
    if after.history != here.history or after.transaction > here.next:
        return Position(here.history, 0, NOWHERE)
    return after


def forget_other_histories(url: str, table: str) -> int:
    """Have the rows whose transactions this server has not counted yet come first; return how many they are.

    They were restored from the dump of another server. As they are, nobody would see them until the server has counted
    so far. A crash leaves all of it or nothing, and repeating it finds nothing to do.
    """
    with engine_of(url) as engine, engine.begin() as connection:
        return connection.execute(text(FORGET.format(table=table))).rowcount
