"""The entrypoints of users."""
from uuid import UUID

from nameko.dependency_providers import Config

from services.common import metrics
from services.common.database import Database
from services.common.http import Reply, http
from services.common.outbox import Outbox
from services.common.problems import PASSING, FieldError, Problem, not_found
from services.common.rpc import RpcProxy
from services.common.timers import every
from services.contracts import UserRegistered
from services.users import models, store
from services.users.domain import NewUser, Status, UserView


class UsersService:
    """Creates users, and sees to it that each gets an account in billing."""

    name = "users"
    config = Config()
    db = Database(models.Base)
    outbox = Outbox(models.Outbox)
    billing = RpcProxy("billing")

    @http("POST", "/users", body=NewUser, answers={201: UserView, 409: None}, summary="Create a user")
    def create_user(self, key: str | None, body: NewUser) -> Reply:
        """Store the user, tell the others, and open the account; `pending` while billing has not answered."""
        try:
            with self.db.get_session() as session:
                user, is_new = store.claim_user(session, key, body, self.config["RECOVERY_AFTER_S"])
                if is_new:
                    self.outbox.add(session, [UserRegistered(user_id=user.id, email=user.email)])
        except store.EmailTaken:
            raise email_taken() from None
        try:
            user = self._settle(user)
        except PASSING:
            pass  # it stays pending, and `recover` asks billing again
        return Reply(201, UserView.model_validate(user), {"Location": f"/users/{user.id}"}, replayed=not is_new)

    def _settle(self, user: models.User) -> models.User:
        """Open the account, which billing does once, then record that it is there."""
        if user.status != Status.PENDING:
            return user
        self.billing.open_account(user_id=str(user.id))
        with self.db.get_session() as session:
            return store.activate(session, user.id)

    @every("RECOVERY_INTERVAL_S")
    def recover(self) -> None:
        """Finish the users that a crash or an outage left pending; any number of replicas may do so at once."""
        with self.db.get_session() as session:
            users = store.claim_pending(session, self.config["RECOVERY_BATCH"], self.config["RECOVERY_AFTER_S"])
        for user in users:
            self._settle(user)
        with self.db.get_session() as session:
            metrics.PENDING.labels(self.name).set(store.count_pending(session))

    @http("GET", "/users/<uuid:user_id>", answers={200: UserView, 404: None}, summary="Show a user")
    def get_user(self, user_id: UUID) -> Reply:
        with self.db.get_session() as session:
            user = store.get(session, user_id)
        if user is None:
            raise not_found("such user")
        return Reply(200, UserView.model_validate(user))


def email_taken() -> Problem:
    return Problem(409, "email-taken", "email: another user has this address.",
                   [FieldError(field="email", message="another user has this address")])
