"""Users in the style `http`: notifications and billing are asked by HTTP, and the client waits for both."""

from collections.abc import Sequence
from uuid import UUID

from services.contracts import UserKnown
from services.kit.batching import batched
from services.kit.errors import CallFailed
from services.kit.outbox.provider import Outbox
from services.kit.outbox.table import OutgoingEvent
from services.kit.recovery import one_by_one
from services.kit.web.auth.rules import Rule
from services.kit.web.client import HttpProxy
from services.kit.web.entrypoint import Reply, http
from services.kit.web.transport import HttpTransport
from services.notices import notice_of
from services.users import models, service, store
from services.users.domain import UserView


class UsersService(service.AskingUsers):
    """Asks notifications to keep the address of each user, and billing to open the account."""

    outbox = Outbox(models.OutboxEvent, HttpTransport("notifications", notice_of))
    billing = HttpProxy("billing")

    def _register(self, user: UserView, events: Sequence[OutgoingEvent]) -> UserView:
        """Have the address kept and the account opened, then record that the user is active.

        An address that is not kept now is owed: its event is in the outbox, whose relay asks again.
        """
        self.outbox.publish_now(events)
        opened = self.billing.put(f"/internal/billing/accounts/{user.id}", None, "put_account")
        if opened.status != 200:
            raise CallFailed(f"billing answered {opened.status} to an account")
        return self._activate_together.one(user)

    @batched()
    def _activate_together(self, users: Sequence[UserView]) -> Sequence[UserView]:
        return self._activate(users)

    def _register_due(self, users: Sequence[UserView]) -> Sequence[UserView | Exception]:
        return one_by_one(users, lambda user: self._register(user, events=[]))

    @http(
        "GET",
        "/internal/users/<uuid:user_id>",
        needs=Rule.SERVICES,
        answers={200: UserKnown},
        summary="Say whether there is such a user",
    )
    def get_known(self, user_id: UUID) -> Reply:
        """A user is one from the moment at which it is stored."""
        with self.db.autocommit() as connection:
            return Reply(200, UserKnown(is_known=bool(store.known(connection, [user_id]))))
