"""What every event has in common."""

from typing import ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from services.kit.ids import new_id


class Event(BaseModel):
    """A fact that a service tells the others. `event_id` is what a handler remembers, to handle it once.

    `SOURCE` is the service that publishes it, `TYPE` its routing key, `ABOUT` the field with the id of its subject.
    Fields that are not known here are ignored: they come from a newer producer. A new field needs a default, for the
    events of an older one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    SOURCE: ClassVar[str]
    TYPE: ClassVar[str]
    ABOUT: ClassVar[str] = "event_id"

    event_id: UUID = Field(default_factory=new_id)

    @property
    def about(self) -> UUID:
        about: UUID = getattr(self, self.ABOUT)
        return about
