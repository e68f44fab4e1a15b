"""Users in the style `broker`: billing is asked by RPC for accounts, and an event tells everybody of the user."""

from collections.abc import Sequence
from uuid import UUID

from services.kit.amqp.rpc import RpcFailed, RpcProxy, rpc
from services.kit.amqp.transport import AmqpTransport
from services.kit.batching import batched
from services.kit.outbox.provider import Outbox
from services.kit.outbox.table import OutgoingEvent
from services.users import models, service, store
from services.users.domain import UserView


class UsersService(service.AskingUsers):
    """Asks billing to open accounts, many in one request, and publishes that the users are registered."""

    outbox = Outbox(models.OutboxEvent, AmqpTransport())
    billing = RpcProxy("billing")

    def _register(self, user: UserView, events: Sequence[OutgoingEvent]) -> UserView:
        self.outbox.publish_soon(events)
        return self._open_accounts.one(user)

    def _register_due(self, users: Sequence[UserView]) -> Sequence[UserView | Exception]:
        return self._open_accounts.many(users)

    @batched(again=(RpcFailed,))
    def _open_accounts(self, users: Sequence[UserView]) -> Sequence[UserView]:
        """Ask billing, which opens an account once; then record that the users are active."""
        self.billing.open_accounts(user_ids=[str(user.id) for user in users])
        return self._activate(users)

    @rpc
    def known_users(self, user_ids: list[UUID]) -> list[str]:
        """Return those of `user_ids` that are users. A user is one from the moment at which it is stored."""
        with self.db.autocommit() as connection:
            return [str(user_id) for user_id in store.known(connection, user_ids)]
