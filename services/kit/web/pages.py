"""Keyset pagination: the last page costs what the first does (Winand, "SQL Performance Explained", 2012)."""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from services.kit.web.catalogue import SENTENCES

DEFAULT_LIMIT, MAX_LIMIT = 50, 200
Item = TypeVar("Item")
Position = tuple[datetime, UUID]


def _digits(text: Any) -> Any:
    if isinstance(text, str) and not re.fullmatch(r"[0-9]{1,99}", text):
        raise PydanticCustomError(*SENTENCES["int_parsing"])
    return text


def write_cursor(list_: str, moment: datetime, id_: UUID) -> str:
    """Return the cursor of a place in a list: after the item of this moment and id."""
    return base64.urlsafe_b64encode(f"{list_} {moment.isoformat()} {id_}".encode("ascii")).decode("ascii")


def read_cursor(list_: str, cursor: str) -> Position:
    """Return the place that a cursor means; raise ValueError for one that is of another list, or not made by us.

    A cursor of before 0.2.0 names no list, and is good for each.
    """
    try:
        *name, moment, id_ = base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii").split(" ")
        position = datetime.fromisoformat(moment), UUID(id_)
    except (ValueError, binascii.Error):
        name, position = [], None
    if position is None or position[0].tzinfo is None or len(name) > 1:
        raise ValueError("should be the `next` of the page before")
    if name and name != [list_]:
        raise ValueError("is of another list: should be the `next` of the page before of this one")
    return position


Limit = Annotated[
    int,
    BeforeValidator(_digits, json_schema_input_type=int),
    Field(ge=1, le=MAX_LIMIT, description="How many items"),
]


class PageQuery(BaseModel):
    """The query of a list: how many items, and after which one. Other parameters are refused.

    Each list has its own, which names it. A cursor means a place in that list, whatever the filters are.
    """

    model_config = ConfigDict(extra="forbid")
    LIST: ClassVar[str]

    limit: Limit = DEFAULT_LIMIT
    cursor: Annotated[Position | None, Field(description="After which item: the `next` of the page before")] = None

    @field_validator("cursor", mode="before", json_schema_input_type=str)
    @classmethod
    def _position(cls, cursor: Any) -> Any:
        return read_cursor(cls.LIST, cursor) if isinstance(cursor, str) else cursor


class UserPageQuery(PageQuery):
    """The query of a list of one user's items, or of everybody's."""

    user_id: Annotated[UUID | None, Field(description="Whose; of everybody without it")] = None


class Page(BaseModel, Generic[Item]):
    """One page of a list, newest first. `next` is the cursor of the page after it, null on the last page."""

    model_config = ConfigDict(
        json_schema_serialization_defaults_required=True,
        json_schema_extra={"description": "One page of a list, newest first."},
    )

    items: Annotated[list[Item], Field(description="The items, newest first")]
    next: Annotated[str | None, Field(description="The `cursor` of the page after it; null on the last one")] = None


def newest_first(
    session: Session,
    query: Select[Any],
    page: PageQuery,
    moment: Any,
    id_: Any,
    of: Sequence[tuple[Any, Any]] = (),
) -> tuple[Sequence[Any], str | None]:
    """Run `query` for one page ordered by (`moment`, `id_`) descending; return its rows and the next cursor.

    `of` are columns, and the value that each has in this list, None for any. There has to be an index that begins with
    those that have one, in this order, and goes on with `moment` and `id_`. The page is read from that. By equality
    PostgreSQL might read a longer list and pass over the rest of it, which may be a million rows, as it does not expect
    them to stand together. So a value is asked for as a range, and ordered by, and no other index has that order.
    """
    order = []
    for column, value in of:
        if value is not None:
            query = query.where(column.between(value, value))
            order.append(column.desc())
    if page.cursor is not None:
        query = query.where(tuple_(moment, id_) < tuple_(*page.cursor))
    query = query.order_by(*order, moment.desc(), id_.desc()).limit(page.limit + 1)
    rows = session.execute(query).scalars().all()
    if len(rows) <= page.limit:
        return rows, None
    last = rows[page.limit - 1]
    return rows[: page.limit], write_cursor(page.LIST, getattr(last, moment.key), getattr(last, id_.key))
