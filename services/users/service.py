"""What the three styles of users have in common. `_register` is what a style is: how the account is opened."""

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from nameko.dependency_providers import Config

from services.contracts import UserRegistered
from services.kit.db.database import Database
from services.kit.errors import TEMPORARY
from services.kit.ids import new_id
from services.kit.outbox.provider import Outbox
from services.kit.outbox.table import OutgoingEvent
from services.kit.recovery import Recovery
from services.kit.timers import every
from services.kit.tracing import traceparent
from services.kit.waiting import Ends
from services.kit.web.auth.rules import Needs, Owner
from services.kit.web.entrypoint import Reply, http
from services.kit.web.pages import Page
from services.kit.web.problems import FieldError, Problem
from services.problems import not_found
from services.users import models, store
from services.users.domain import NewUser, UserStatus, UserView
from services.users.store import UserRequest, UsersQuery


class Users:
    """Creates users, and sees to it that each gets an account in billing."""

    name = "users"
    config = Config()
    db = Database(models.Base)
    outbox: Outbox
    recovery = Recovery(models.User, UserView, ended=(UserStatus.ACTIVE,))
    ends = Ends(models.User, UserView, ended=(UserStatus.ACTIVE,))

    @http(
        "POST",
        "/users",
        needs=Needs("users:register"),
        body=NewUser,
        answers={201: UserView, 409: "email-taken"},
        summary="Create a user",
        waits=True,
    )
    def create_user(self, key: str | None, body: NewUser, wait_s: float | None) -> Reply:
        """Store the user and its event, then have the account opened; `pending` until billing has it."""
        request = UserRequest(new_id(), key, body.name, body.email, traceparent())
        event = UserRegistered(user_id=request.id, email=request.email)
        with self.db.get_session() as session:
            user, is_new, events = store.store_user(
                session, request, event, self.config["RECOVERY_AFTER_S"], self.outbox.lease_s
            )
        if user is None:
            raise email_taken(replayed=not is_new)
        if user.status == UserStatus.PENDING:
            try:
                user = self._register(user, events)
            except TEMPORARY:
                pass  # `recover` asks again
        later = partial(self._answer_later, user, is_new) if user.status == UserStatus.PENDING else None
        return answer(user, is_new, later)

    def _register(self, user: UserView, events: Sequence[OutgoingEvent]) -> UserView:
        """Publish the events, which are committed; return the user, active; any of TEMPORARY while it is pending."""
        raise NotImplementedError

    def _register_due(self, users: Sequence[UserView]) -> Sequence[UserView | Exception]:
        """Finish users that a crash or an outage left pending; return the user or an exception for each."""
        raise NotImplementedError

    def _answer_later(self, user: UserView, is_new: bool, wait_s: float) -> Reply:
        """Wait until the user is active, without a worker."""
        return answer((self.ends.wait(user.id, wait_s) if wait_s else None) or user, is_new)

    @every("RECOVERY_INTERVAL_S")
    def recover(self) -> None:
        """Finish the users that a crash or an outage left pending; any number of replicas may do so at once."""
        self.recovery.run(self._register_due)

    @http(
        "GET",
        "/users/<uuid:user_id>",
        needs=Needs("users:read", Owner.PATH, partial(not_found, "user")),
        answers={200: UserView, 404: "user-not-found"},
        summary="Show a user",
        waits=True,
        ends=True,
    )
    def get_user(self, user_id: UUID, wait_s: float | None) -> Reply:
        """Show how the user is now."""
        with self.db.get_session() as session:
            user = store.get(session, user_id)
        if user is None:
            raise not_found("user")
        return self.ends.show(UserView.model_validate(user))

    @http(
        "GET",
        "/users",
        needs=Needs("users:read", Owner.ONLY),
        query=UsersQuery,
        answers={200: Page[UserView]},
        summary="List users, newest first",
    )
    def list_users(self, query: UsersQuery, only: UUID | None) -> Reply:
        """List everybody, or the one user with an address: also whom a `POST` has created whose answer was lost."""
        with self.db.get_session() as session:
            users, next_ = store.newest(session, query, only)
        return Reply(200, Page[UserView](items=[UserView.model_validate(user) for user in users], next=next_))


class AskingUsers(Users):
    """What the styles have in common in which users asks billing, and then knows that the account is open."""

    def _activate(self, users: Sequence[UserView]) -> Sequence[UserView]:
        with self.db.autocommit() as connection:
            return store.activate(connection, users)


def answer(user: UserView, is_new: bool, later: Callable[[float], Reply] | None = None) -> Reply:
    return Reply(201, user, {"Location": f"/users/{user.id}"}, replayed=not is_new, later=later)


def email_taken(replayed: bool) -> Problem:
    return Problem(
        409,
        "email-taken",
        "email: another user has this address.",
        [FieldError(field="email", code="taken", message="another user has this address")],
        replayed=replayed,
    )
