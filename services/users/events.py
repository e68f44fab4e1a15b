"""Users in the style `events`: users tells that it has a user, and billing tells that it has opened the account."""

from collections.abc import Sequence

from services.contracts import AccountOpened, UserRegistered
from services.kit.amqp.events import event_handler
from services.kit.amqp.transport import AmqpTransport
from services.kit.inbox.provider import Inbox
from services.kit.outbox.provider import Outbox
from services.kit.outbox.table import OutgoingEvent
from services.kit.recovery import NotYet, events_of
from services.users import models, service, store
from services.users.domain import UserView


class UsersService(service.Users):
    """Publishes that users are registered, and hears that their accounts are open."""

    outbox = Outbox(models.OutboxEvent, AmqpTransport())
    inbox = Inbox(models.InboxEvent)

    def _register(self, user: UserView, events: Sequence[OutgoingEvent]) -> UserView:
        self.outbox.publish_soon(events)
        raise NotYet("billing is going to hear of it")

    @event_handler(AccountOpened)
    def on_account_opened(self, events: list[AccountOpened]) -> list[bool]:
        """Record that the users are active."""
        with self.db.autocommit() as connection:
            active = store.activate_ids(connection, [event.user_id for event in events])
        self.ends.tell(active.values())
        return [event.user_id in active for event in events]

    def _register_due(self, users: Sequence[UserView]) -> Sequence[UserView | Exception]:
        """Tell of the users again; billing tells again what it has done."""
        events, troubles = events_of(users, lambda user: UserRegistered(user_id=user.id, email=user.email))
        with self.db.autocommit() as connection:
            written = store.register_again(connection, events, self.outbox.lease_s)
        self.outbox.publish_soon(written)
        return [troubles.get(user.id, NotYet("billing is going to hear of it")) for user in users]
