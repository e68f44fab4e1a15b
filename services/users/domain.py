"""Users and their e-mail addresses."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from services.contracts import Email, Line


class UserStatus(StrEnum):
    """`active` once billing has opened the account."""

    PENDING = "pending"
    ACTIVE = "active"


class NewUser(BaseModel):
    """What a client sends to create a user."""

    model_config = ConfigDict(extra="forbid")

    name: Line
    email: Email


class UserView(BaseModel):
    """A user as a client sees it."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    email: str
    status: UserStatus
    created_at: datetime
