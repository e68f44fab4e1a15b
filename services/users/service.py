"""The entrypoints of users."""

from collections.abc import Sequence
from uuid import UUID, uuid4

from nameko.dependency_providers import Config

from services.contracts import UserRegistered
from services.kit.amqp.rpc import RpcFailed, RpcProxy, rpc
from services.kit.batching import batched
from services.kit.db.database import Database
from services.kit.errors import TEMPORARY
from services.kit.outbox.provider import Outbox
from services.kit.recovery import Recovery
from services.kit.timers import every
from services.kit.web.entrypoint import Reply, http
from services.kit.web.problems import FieldError, Problem, not_found
from services.users import models, store
from services.users.domain import NewUser, Status, UserView
from services.users.store import UserRequest


class UsersService:
    """Creates users, and sees to it that each gets an account in billing."""

    name = "users"
    config = Config()
    db = Database(models.Base)
    outbox = Outbox(models.OutboxEvent)
    recovery = Recovery(models.User, UserView, ended=(Status.ACTIVE,))
    billing = RpcProxy("billing")

    @http("POST", "/users", body=NewUser, answers={201: UserView, 409: None}, summary="Create a user")
    def create_user(self, key: str | None, body: NewUser) -> Reply:
        """Store the user and its event, then open the account; `pending` until billing answers."""
        request = UserRequest(uuid4(), key, body.name, body.email)
        event = UserRegistered(user_id=request.id, email=request.email)
        with self.db.get_session() as session:
            user, is_new, events = store.store_user(
                session, request, event, self.config["RECOVERY_AFTER_S"], self.outbox.lease_s
            )
        self.outbox.publish_soon(events)
        if user is None:
            raise email_taken(replayed=not is_new)
        if user.status == Status.PENDING:
            try:
                user = self._open_accounts.one(user)
            except TEMPORARY:
                pass  # it stays pending, and `recover` asks billing again
        return Reply(201, user, {"Location": f"/users/{user.id}"}, replayed=not is_new)

    @batched(again=(RpcFailed,))
    def _open_accounts(self, users: Sequence[UserView]) -> Sequence[UserView]:
        """Ask billing, which opens an account once; then record that the users are active."""
        self.billing.open_accounts(user_ids=[str(user.id) for user in users])
        with self.db.autocommit() as connection:
            return store.activate(connection, users)

    @rpc
    def known_users(self, user_ids: list[UUID]) -> list[str]:
        """Return those of `user_ids` that are users. A user is one from the moment at which it is stored."""
        with self.db.autocommit() as connection:
            return [str(user_id) for user_id in store.known(connection, user_ids)]

    @every("RECOVERY_INTERVAL_S")
    def recover(self) -> None:
        """Finish the users that a crash or an outage left pending; any number of replicas may do so at once."""
        self.recovery.run(self._open_accounts.many)

    @http("GET", "/users/<uuid:user_id>", answers={200: UserView, 404: None}, summary="Show a user")
    def get_user(self, user_id: UUID) -> Reply:
        with self.db.get_session() as session:
            user = store.get(session, user_id)
        if user is None:
            raise not_found("such user")
        return Reply(200, UserView.model_validate(user))


def email_taken(replayed: bool) -> Problem:
    return Problem(
        409,
        "email-taken",
        "email: another user has this address.",
        [FieldError(field="email", message="another user has this address")],
        replayed=replayed,
    )
