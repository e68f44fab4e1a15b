"""One effect for each Idempotency-Key.

The key is a unique column of the row that the request creates, so the database itself decides who was
first, also among concurrent repetitions (draft-ietf-httpapi-idempotency-key-header; Helland, "Idempotence
Is Not a Medical Condition", 2012).
"""

from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.kit.errors import KeyReused

Row = TypeVar("Row", bound=Any)


def claim(
    session: Session, model: type[Row], key: str | None, request: dict[str, Any], **also: Any
) -> tuple[Row | None, bool]:
    """Insert a row under `key`, or find the one that has it already; say which.

    `request` holds what the caller asked for: a row found under the key must have the same, else KeyReused.
    `also` are values of our own. None where another unique column of the table refused the row.
    """
    row = session.scalars(
        insert(model).values(idempotency_key=key, **request, **also).on_conflict_do_nothing().returning(model)
    ).one_or_none()
    if row is not None or key is None:
        return row, row is not None
    row = session.scalars(select(model).where(model.idempotency_key == key)).one_or_none()
    if row is not None and any(getattr(row, name) != value for name, value in request.items()):
        raise KeyReused()
    return row, False


def take_turns(session: Session, key: str) -> None:
    """Wait until no other transaction is about `key`, for the rest of this one: where two tables may hold it."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(key, 0))))
