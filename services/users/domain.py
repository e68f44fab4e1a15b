"""Users and their e-mail addresses."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from services.contracts import Email, Line


class UserStatus(StrEnum):
    """`active` once billing has opened the account."""

    PENDING = "pending"
    ACTIVE = "active"


EXAMPLES: list[JsonValue] = [
    {
        "id": "2f1c7b0e-9a55-4d0b-8f2a-6d3f1f4f9c11",
        "name": "Ada Lovelace",
        "email": "ada@example.com",
        "status": "active",
        "created_at": "2026-01-31T08:15:30.125000Z",
    }
]


class NewUser(BaseModel):
    """What a client sends to create a user."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Line, Field(description="What to call the user", examples=["Ada Lovelace"])]
    email: Annotated[Email, Field(description="Where letters go; it belongs to one user, in upper and lower case")]


class UserView(BaseModel):
    """A user as a client sees it."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": EXAMPLES})

    id: Annotated[UUID, Field(description="The id of the user, which is also that of the account in billing")]
    name: Annotated[str, Field(description="What to call the user")]
    email: Annotated[str, Field(description="Where letters go, as it was given")]
    status: Annotated[UserStatus, Field(description="`active` once billing has opened the account")]
    created_at: Annotated[datetime, Field(description="When the user was stored, RFC 3339 in UTC")]
