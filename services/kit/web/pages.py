"""Keyset pagination: the last page costs what the first does (Winand, "SQL Performance Explained", 2012)."""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

DEFAULT_LIMIT, MAX_LIMIT = 50, 200
Item = TypeVar("Item")
Position = tuple[datetime, UUID]


def _digits(text: Any) -> Any:
    if isinstance(text, str) and not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("should be a whole number")
    return text


def _position(cursor: Any) -> Any:
    """Return the position in a cursor; raise ValueError for a cursor that we have not made."""
    if not isinstance(cursor, str):
        return cursor
    try:
        moment, _, id_ = base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii").partition(" ")
        position = datetime.fromisoformat(moment), UUID(id_)
    except (ValueError, binascii.Error):
        position = None
    if position is None or position[0].tzinfo is None:
        raise ValueError("should be the `next` of the page before")
    return position


class PageQuery(BaseModel):
    """The query of a list: how many items, and after which one. Other parameters are refused."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[
        int,
        BeforeValidator(_digits, json_schema_input_type=int),
        Field(ge=1, le=MAX_LIMIT, description="How many items"),
    ] = DEFAULT_LIMIT
    cursor: Annotated[
        Position | None,
        BeforeValidator(_position, json_schema_input_type=str),
        Field(description="After which item: the `next` of the page before"),
    ] = None


class UserPageQuery(PageQuery):
    """The query of a list of one user's items, or of everybody's."""

    user_id: Annotated[UUID | None, Field(description="Whose; of everybody without it")] = None


class Page(BaseModel, Generic[Item]):
    """One page of a list, newest first. `next` is the cursor of the page after it, null on the last page."""

    model_config = ConfigDict(
        json_schema_serialization_defaults_required=True,
        json_schema_extra={"description": "One page of a list, newest first."},
    )

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{params[0].__name__.removesuffix('View')}Page"

    items: Annotated[list[Item], Field(description="The items, newest first")]
    next: Annotated[str | None, Field(description="The `cursor` of the page after it; null on the last one")] = None


def newest_first(
    session: Session, query: Select[Any], page: PageQuery, moment: Any, id_: Any
) -> tuple[Sequence[Any], str | None]:
    """Run `query` for one page ordered by (`moment`, `id_`) descending; return its rows and the next cursor."""
    if page.cursor is not None:
        query = query.where(tuple_(moment, id_) < tuple_(*page.cursor))
    rows = session.execute(query.order_by(moment.desc(), id_.desc()).limit(page.limit + 1)).scalars().all()
    if len(rows) <= page.limit:
        return rows, None
    last = rows[page.limit - 1]
    key = f"{getattr(last, moment.key).isoformat()} {getattr(last, id_.key)}"
    return rows[: page.limit], base64.urlsafe_b64encode(key.encode("ascii")).decode("ascii")
