"""What the three styles of notifications have in common: letters are stored, listed, and written by hand.

How notifications hears of orders and users is in `broker.py`, `http.py` and `events.py`.
"""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from services.contracts import OrderPaid, OrderRejected, Outcome, PaymentAccepted, PaymentRefused, UserRegistered
from services.kit.amqp.events import event_handler
from services.kit.batching import batched
from services.kit.db.commits import Position, starts
from services.kit.db.database import Database
from services.kit.feed import Entry, Feed, FeedQuery
from services.kit.ids import new_id
from services.kit.inbox.provider import Inbox
from services.kit.web.auth.rules import Needs, Owner
from services.kit.web.entrypoint import Reply, Stream, http
from services.kit.web.pages import Page
from services.notifications import models, store
from services.notifications.domain import (
    EventPage,
    LetterKind,
    LetterView,
    NewMessage,
    paid_letter,
    rejected_letter,
)
from services.notifications.store import LettersQuery, MessageRequest, NewContact, NewLetter, Wanted
from services.problems import not_found

STREAM_ROWS = 20  # that a stream reads at a time


class Notifications:
    """Stores a letter for every order that was paid or rejected for lack of money, once for each order."""

    name = "notifications"
    db = Database(models.Base)
    feed = Feed(models.Letter, owner="user_id")

    def _add_paid(self, events: Sequence[OrderPaid | PaymentAccepted]) -> list[bool]:
        """Store the letters of happiness; return for each whether it was new."""
        with self.db.autocommit() as connection:
            new = store.add_letters(
                connection, [NewLetter.of(LetterKind.ORDER_PAID, one, *paid_letter(one)) for one in events]
            )
        self.feed.tell()
        return new

    def _add_rejected(self, events: Sequence[OrderRejected | PaymentRefused]) -> list[bool]:
        """Store the letters of grief; return for each whether it was new."""
        with self.db.autocommit() as connection:
            new = store.add_letters(
                connection, [NewLetter.of(LetterKind.ORDER_REJECTED, one, *rejected_letter(one)) for one in events]
            )
        self.feed.tell()
        return new

    def _add_contacts(self, events: Sequence[UserRegistered]) -> list[bool]:
        """Remember where users get letters, also those stored before this; return for each whether it was new."""
        with self.db.autocommit() as connection:
            return store.add_contacts(connection, [NewContact(event.user_id, event.email) for event in events])

    @http(
        "POST",
        "/notifications",
        needs=Needs("notifications:write", Owner.BODY, partial(not_found, "user")),
        body=NewMessage,
        answers={201: LetterView},
        summary="Store a letter",
    )
    def create_message(self, key: str | None, body: NewMessage) -> Reply:
        """Store a letter to a user or to an address; nothing is really sent."""
        request = MessageRequest(new_id(), key, body.user_id, body.email, body.subject, body.body)
        with self.db.get_session() as session:
            letter, is_new = store.store_message(session, request)
        self.feed.tell()
        location = {"Location": f"/notifications/{letter.id}"}
        return Reply(201, LetterView.model_validate(letter), location, replayed=not is_new)

    @http(
        "GET",
        "/notifications/<uuid:letter_id>",
        needs=Needs("notifications:read", Owner.ANSWER, partial(not_found, "letter")),
        answers={200: LetterView, 404: "letter-not-found"},
        summary="Show a letter",
        ends=True,
    )
    def get_letter(self, letter_id: UUID) -> Reply:
        """Show a letter. It never changes, once it is known where it goes."""
        with self.db.get_session() as session:
            letter = store.get(session, letter_id)
        if letter is None:
            raise not_found("letter")
        return Reply(200, LetterView.model_validate(letter), ended=letter.email is not None)

    @http(
        "GET",
        "/notifications",
        needs=Needs("notifications:read", Owner.QUERY),
        query=LettersQuery,
        answers={200: Page[LetterView]},
        summary="List letters, newest first",
    )
    def list_letters(self, query: LettersQuery) -> Reply:
        """List the letters of a user or of everybody, or the one about an order."""
        with self.db.get_session() as session:
            letters, next_ = store.newest(session, query)
        return Reply(200, Page[LetterView](items=[LetterView.model_validate(one) for one in letters], next=next_))

    @http(
        "GET",
        "/events",
        needs=Needs("notifications:read", Owner.QUERY),
        query=FeedQuery,
        answers={200: EventPage},
        streams=True,
        summary="Follow letters as they are stored",
    )
    def list_events(self, query: FeedQuery, as_stream: bool, last: Position | None) -> Reply | Stream:
        """Return the letters that were stored after a position, or send each as it is stored.

        With `Accept: text/event-stream` the answer is a stream that stays open. Without a position it begins now.
        """

        def begin() -> Position:
            place: Position = self._places_together.one(last or query.after)
            return place

        def read(position: Position, most: int = STREAM_ROWS) -> list[Entry]:
            entries: list[Entry] = self._committed_together.one(Wanted.after(position, query.user_id, most))
            return entries

        if as_stream:
            return Stream(lambda: self.feed.follow(query.user_id, begin(), read))
        after = begin()
        entries = read(after, query.limit)
        return Reply(200, EventPage.of(entries, after))

    @batched()
    def _places_together(self, after: Sequence[Position | None]) -> list[Position]:
        """Return for each position where its reader begins."""
        with self.db.autocommit() as connection:
            return starts(connection, after)

    @batched()
    def _committed_together(self, wanted: Sequence[Wanted]) -> list[list[Entry]]:
        """Return for each what it wants, and comes next."""
        with self.db.autocommit() as connection:
            return store.committed(connection, wanted)


class HearingNotifications(Notifications):
    """What the styles with a broker have in common: each hears its own events, and those that the other has left.

    Each handler returns whether each of its events was new to it.
    """

    inbox = Inbox(models.InboxEvent)

    @event_handler(OrderPaid)
    def on_order_paid(self, events: list[OrderPaid]) -> list[bool]:
        """Store the letters of happiness."""
        return self._add_paid(events)

    @event_handler(OrderRejected)
    def on_order_rejected(self, events: list[OrderRejected]) -> list[bool]:
        """Store the letters of grief."""
        return self._add_rejected(events)

    @event_handler(UserRegistered)
    def on_user_registered(self, events: list[UserRegistered]) -> list[bool]:
        """Remember where the users get letters, also those stored before this."""
        return self._add_contacts(events)

    @event_handler(PaymentAccepted)
    def on_payment_accepted(self, events: list[PaymentAccepted]) -> list[bool]:
        """Store the letters of happiness."""
        return self._add_paid(events)

    @event_handler(PaymentRefused)
    def on_payment_refused(self, events: list[PaymentRefused]) -> list[bool]:
        """Store the letters of grief, of those that lacked money."""
        lacking = [event for event in events if event.reason == Outcome.INSUFFICIENT_FUNDS]
        new = dict(zip([event.event_id for event in lacking], self._add_rejected(lacking), strict=True))
        return [new.get(event.event_id, True) for event in events]
