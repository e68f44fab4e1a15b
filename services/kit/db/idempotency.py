"""One effect for each Idempotency-Key.

The key is a unique column of the row that the request creates, so the database itself decides who was first, also
among concurrent repetitions. (draft-ietf-httpapi-idempotency-key-header; Helland, "Idempotence Is Not a Medical
Condition", 2012.)
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, func, or_, select
from sqlalchemy.orm import Session

from services.kit.db.statements import PreparedStatement
from services.kit.errors import KeyReused


class Claimed(NamedTuple):
    """What a request gets: the row that it, or the first request with its key, has stored.

    `row` is None where another unique column of the table refused it. `is_new` is false if an earlier request with this
    key was answered already.
    """

    row: Row[Any] | None
    is_new: bool


class Claim:
    """Store rows of a table, each under the Idempotency-Key of its request, or find the row that the key has stored.

    `request` is a NamedTuple whose fields are columns. Two of them are `idempotency_key`, which may be None, and `id`,
    which the handler makes before it stores: so storing twice finds the first row, also after an unknown outcome.
    `same` are the fields that a repetition under the key must have in common. `also` has the SQL of further columns,
    `parameters` the types of the parameters in it.
    """

    def __init__(
        self,
        model: Any,
        request: type[tuple[Any, ...]],
        same: Sequence[str],
        also: Mapping[str, str] | None = None,
        statement: type[PreparedStatement] = PreparedStatement,
        name: str = "",
        **parameters: str,
    ) -> None:
        self._table = model.__table__
        self._same = same
        fields = {**{name: name for name in request._fields}, **(also or {})}  # type: ignore[attr-defined]
        # always in the same sequence, to avoid deadlocks
        self.statement = statement(
            name or f"claim_{model.__tablename__}",
            f"""
            insert into {model.__tablename__} ({", ".join(fields)})
            select {", ".join(fields.values())} from {{requests}} order by idempotency_key
            on conflict do nothing returning *""",
            requests=request,
            **parameters,
        )

    def run(self, connection: Connection, requests: Sequence[Any], **values: Any) -> list[Claimed | KeyReused]:
        """Store each request, or find what its key has stored; KeyReused for one whose key had other values."""
        stored = {row.id: row for row in self.statement.run(connection, requests=requests, **values)}
        found = self.find(connection, [one for one in requests if one.id not in stored])
        return [
            Claimed(stored[one.id], is_new=True) if one.id in stored else found.get(one.id, Claimed(None, is_new=True))
            for one in requests
        ]

    def find(self, connection: Connection, requests: Sequence[Any]) -> dict[UUID, Claimed | KeyReused]:
        """Return, for each request id, the row that this request or its key has stored."""
        if not requests:
            return {}
        keys = {one.idempotency_key for one in requests if one.idempotency_key is not None}
        ids = {one.id for one in requests}
        columns = self._table.c
        found: dict[UUID | str | None, Row[Any]] = {}
        for row in connection.execute(
            select(self._table).where(or_(columns.idempotency_key.in_(keys), columns.id.in_(ids)))
        ):
            found[row.id] = found[row.idempotency_key] = row
        return {
            one.id: self._answer(found[key], one)
            for one in requests
            if (key := one.id if one.id in found else one.idempotency_key) is not None and key in found
        }

    def _answer(self, row: Row[Any], request: Any) -> Claimed | KeyReused:
        if any(getattr(row, name) != getattr(request, name) for name in self._same):
            return KeyReused()
        return Claimed(row, is_new=row.id == request.id)


def or_raise(claimed: Claimed | KeyReused) -> Claimed:
    """Return what a single request gets, or raise KeyReused."""
    if isinstance(claimed, KeyReused):
        raise claimed
    return claimed


def take_turns(session: Session, key: str) -> None:
    """Lock `key` until this transaction ends. Needed where either of two tables may hold it."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(key, 0))))
