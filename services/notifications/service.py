"""The entrypoints of notifications."""

from services.contracts import OrderPaid, OrderRejected, UserRegistered
from services.kit.amqp.events import event_handler
from services.kit.db.database import Database
from services.kit.inbox.provider import Inbox
from services.kit.web.entrypoint import Reply, http
from services.kit.web.pages import Page, UserPageQuery
from services.notifications import models, store
from services.notifications.domain import Kind, LetterView, NewMessage, grief, happiness


class NotificationsService:
    """Stores a letter for every order that ended. Each handler says which events were new to it."""

    name = "notifications"
    db = Database(models.Base)
    inbox = Inbox(models.Inbox)

    @event_handler(OrderPaid)
    def on_order_paid(self, events: list[OrderPaid]) -> list[bool]:
        """Store the letters of happiness."""
        with self.db.autocommit() as connection:
            return store.add_letters(connection, Kind.ORDER_PAID, [(event, *happiness(event)) for event in events])

    @event_handler(OrderRejected)
    def on_order_rejected(self, events: list[OrderRejected]) -> list[bool]:
        """Store the letters of grief."""
        with self.db.autocommit() as connection:
            return store.add_letters(connection, Kind.ORDER_REJECTED, [(event, *grief(event)) for event in events])

    @event_handler(UserRegistered)
    def on_user_registered(self, events: list[UserRegistered]) -> list[bool]:
        """Remember where the users get letters, also those stored before this."""
        with self.db.get_session() as session:
            return [store.add_contact(session, event.user_id, event.email) for event in events]

    @http("POST", "/notifications", body=NewMessage, answers={201: LetterView}, summary="Store a letter")
    def create_message(self, key: str | None, body: NewMessage) -> Reply:
        """Store a letter to a user or to an address; nothing is really sent."""
        with self.db.get_session() as session:
            letter, is_new = store.claim_message(session, key, body)
        return Reply(201, LetterView.model_validate(letter), replayed=not is_new)

    @http(
        "GET",
        "/notifications",
        query=UserPageQuery,
        answers={200: Page[LetterView]},
        summary="List letters, newest first",
    )
    def list_letters(self, query: UserPageQuery) -> Reply:
        with self.db.get_session() as session:
            letters, next_ = store.newest(session, query)
        return Reply(200, Page[LetterView](items=[LetterView.model_validate(one) for one in letters], next=next_))
