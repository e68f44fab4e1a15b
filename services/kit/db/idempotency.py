"""One effect for each Idempotency-Key.

The key is a column of the row that the request creates, unique among the rows of its scope, such as those of one user.
So the database itself decides who was first, also among concurrent repetitions.
(draft-ietf-httpapi-idempotency-key-header; Helland, "Idempotence Is Not a Medical Condition", 2012.)
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select, text, tuple_
from sqlalchemy.orm import Session

from services.kit.db.statements import PreparedStatement
from services.kit.errors import KeyReused

#: For the unique index of keys: a request without one costs it nothing.
HAS_KEY = text("idempotency_key is not null")

#: The trace of each request that has one, for recovery. That of a request which stores no row is never looked for.
TRACED = """traced as (
    insert into traces (id, traceparent) select id, traceparent from {requests} where traceparent is not null
    on conflict do nothing)"""


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
    `same` are the fields that a repetition under the key must have in common. A key belongs to the `scope`, a field of
    the request: the same key in another scope is another key. Without one it belongs to the whole service. `also` has
    the SQL of further columns, `parameters` the types of the parameters in it. A field `traceparent` is no column: it
    goes to the table `traces` (`services/kit/recovery.py`).
    """

    def __init__(
        self,
        model: Any,
        request: type[tuple[Any, ...]],
        same: Sequence[str],
        scope: str | None = None,
        also: Mapping[str, str] | None = None,
        statement: type[PreparedStatement] = PreparedStatement,
        name: str = "",
        **parameters: str,
    ) -> None:
        self._table = model.__table__
        self._same = same
        self._scope = scope
        names: Sequence[str] = request._fields  # type: ignore[attr-defined]
        is_traced = "traceparent" in names
        fields = {**{name: name for name in names if name != "traceparent"}, **(also or {})}
        # always in the same sequence, to avoid deadlocks
        self.statement = statement(
            name or f"claim_{model.__tablename__}",
            f"""
            insert into {model.__tablename__} ({", ".join(fields)})
            select {", ".join(fields.values())} from {{requests}}
            order by {", ".join(["idempotency_key", *([scope] if scope else [])])}
            on conflict do nothing returning {", ".join(column.name for column in self._table.columns)}""",
            before=TRACED if is_traced else "",
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
        of_ids = self._table.c.id.in_({one.id for one in requests})
        rows = connection.execute(select(self._table).where(or_(of_ids, *self._of_keys(requests)))).all()
        by_id = {row.id: row for row in rows}
        by_key = {self._key(row): row for row in rows if row.idempotency_key is not None}
        return {
            one.id: self._answer(row, one)
            for one in requests
            if (row := by_id.get(one.id) or by_key.get(self._key(one))) is not None
        }

    def _key(self, row: Any) -> tuple[Any, str | None]:
        """Return the key of a row or a request, with its scope."""
        return getattr(row, self._scope) if self._scope else None, row.idempotency_key

    def _of_keys(self, requests: Sequence[Any]) -> Iterator[ColumnElement[bool]]:
        """Return the conditions that find the rows under the keys of `requests`, each by the unique index."""
        keys = {self._key(one) for one in requests if one.idempotency_key is not None}
        key = self._table.c.idempotency_key
        scope = self._table.c[self._scope] if self._scope else None
        if scoped := [one for one in keys if one[0] is not None]:
            yield tuple_(scope, key).in_(scoped)
        if unscoped := [one for scope_, one in keys if scope_ is None]:
            yield key.in_(unscoped) if scope is None else and_(scope.is_(None), key.in_(unscoped))

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
