"""What an event handler does with each outcome: when it acknowledges, when it keeps, and when it holds."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import amqp
import pytest
from kombu.exceptions import MessageStateError
from psycopg2 import errors
from sqlalchemy.exc import IntegrityError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolIsEmpty

from services.contracts import Event, OrderPaid
from services.kit.amqp import events
from services.kit.amqp.consumer import QueueConsumer
from services.kit.amqp.events import EventHandler
from services.kit.errors import DatabaseAway, TryAgain, Unavailable
from services.kit.inbox.table import DueMessage, as_json, clean
from services.kit.metrics import metrics_of
from services.kit.outage import Outage
from services.kit.tracing import Tracer

AWAY = DatabaseAway("insert", {}, Exception("server closed the connection unexpectedly"))
MANY = 1000
REFUSED = IntegrityError("insert", {}, Exception("violates"))


class Cancelled(errors.QueryCanceled):
    """A statement that took too long, as the server reports it."""

    pgcode = "57014"


CANCELLED = TryAgain("insert", {}, Cancelled())


class Message:
    """A message from a broker, which records how it was answered."""

    headers: dict[str, Any] = {}
    content_type, content_encoding = "application/json", "utf-8"
    body = b"as it came"

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.answers: list[str] = []
        self.failure: Exception | None = None

    def ack(self) -> None:
        if self.failure:
            raise self.failure
        self.answers.append("ack")

    requeue = ack


class FakeInbox:
    """Keeps what it is given, or fails."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int, float | None]] = []
        self.failure: Exception | None = None
        self.outage = Outage("event handling of a service", "its database")
        self.done: list[Any] = []

    def keep(self, handler: str, event: Any, pause_s: float | None) -> bool:
        if self.failure:
            raise self.failure
        self.kept.append((event.key, event.attempts, pause_s))
        return True

    def succeeded(self, row: DueMessage) -> None:
        self.done.append("succeeded")

    def failed(self, row: DueMessage, attempts: int, reason: str, pause_s: float | None) -> None:
        self.done.append((attempts, reason, pause_s))

    def free_slot(self) -> None:
        self.done.append("over")


class FakeContainer:
    """Runs workers when `run` is called; `handle` is the method of the service."""

    service_name = "a service"
    metrics = metrics_of("unit")
    tracer = Tracer()
    accept = ["json"]

    def __init__(self) -> None:
        self.settings = SimpleNamespace(EVENT_BATCH=100, EVENT_RETRY_PAUSES_S=[1, 5])
        self.handle: Callable[[list[Event]], list[bool]] = lambda batch: [True] * len(batch)
        self.handled: list[int] = []
        self.workers: list[Callable[[], None]] = []
        self.threads: list[Callable[[], None]] = []

    def spawn_worker(self, entrypoint: Any, args: Any, kwargs: Any, context_data: Any, handle_result: Any) -> None:
        def work() -> None:
            self.handled.append(len(args[0]))
            try:
                result, exc_info = self.handle(args[0]), None
            except Exception as error:
                result, exc_info = None, (type(error), error, None)
            handle_result(None, result, exc_info)

        self.workers.append(work)

    def spawn_managed_thread(self, work: Callable[[], None]) -> None:
        self.threads.append(work)

    def run(self) -> None:
        """Run the workers, and those that they spawn, until there are none."""
        for _ in range(MANY):
            if not self.workers:
                return
            self.workers.pop(0)()
        raise AssertionError("it never ends")


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A handler of paid orders, with fakes of all that it uses."""
    monkeypatch.setattr(events.eventlet, "sleep", lambda pause_s: None)
    one: Any = EventHandler(OrderPaid)
    one.container, one.method_name, one.inbox = FakeContainer(), "on_order_paid", FakeInbox()
    one.queue = SimpleNamespace(name="a queue")
    one.queue_consumer = QueueConsumer()
    one.queue_consumer._channel = SimpleNamespace(connection=True)
    return one


def body(**more: Any) -> dict[str, Any]:
    return {"event_id": str(uuid4()), "order_id": str(uuid4()), "user_id": str(uuid4()), "price": 1, **more}


def deliver(handler: Any, *bodies: Any) -> list[Message]:
    """Deliver all before the first worker runs: the first goes alone, the others together."""
    messages = [Message(handler.queue_consumer._channel) for _ in bodies]
    for one, message in zip(bodies, messages, strict=True):
        handler.handle_message(one, message)
    return messages


def answers(messages: list[Message]) -> list[list[str]]:
    return [message.answers for message in messages]


def run_threads(handler: Any) -> None:
    """End the pauses."""
    threads, handler.container.threads = handler.container.threads, []
    for thread in threads:
        thread()
    handler.container.run()


def raising(error: Exception) -> Callable[[list[Event]], list[bool]]:
    def handle(batch: list[Event]) -> list[bool]:
        raise error

    return handle


def test_what_is_handled_is_acknowledged(handler: Any):
    messages = deliver(handler, body(), body(), body())
    handler.container.run()
    assert handler.container.handled == [1, 2]
    assert answers(messages) == [["ack"]] * 3 and handler.inbox.kept == []


def test_what_fails_alone_is_kept_and_then_acknowledged(handler: Any):
    handler.container.handle = raising(REFUSED)
    given = body()
    messages = deliver(handler, given)
    handler.container.run()
    assert handler.inbox.kept == [(given["event_id"], 1, 1)]
    assert answers(messages) == [["ack"]]


def test_a_batch_that_fails_is_handled_again_one_by_one(handler: Any):
    def handle(batch: list[Any]) -> list[bool]:
        if any(event.price == 13 for event in batch):
            raise REFUSED
        return [True] * len(batch)

    handler.container.handle = handle
    bad = body(price=13)
    messages = deliver(handler, body(), body(), bad, body())
    handler.container.run()
    assert handler.container.handled == [1, 3, 1, 1, 1]
    assert handler.inbox.kept == [(bad["event_id"], 1, 1)]
    assert answers(messages) == [["ack"]] * 4


@pytest.mark.parametrize("error", [AWAY, Unavailable("x"), PoolIsEmpty(), PendingRollbackError()])
def test_in_an_outage_all_is_held_and_tried_again_after_growing_pauses(handler: Any, error: Exception):
    handler.container.handle = raising(error)
    messages = deliver(handler, body(), body(), body())
    pauses = []
    for _ in range(7):
        handler.container.run()
        assert len(handler.container.threads) == 1, "one try at a time"
        pauses.append(handler._pause_s)
        run_threads(handler)
    assert answers(messages) == [[]] * 3 and handler.inbox.kept == []
    assert pauses == [0.5, 1, 2, 4, 5, 5, 5]
    assert max(handler.container.handled) <= 2
    handler.container.handle = lambda batch: [True] * len(batch)
    run_threads(handler)
    assert answers(messages) == [["ack"]] * 3 and handler.inbox.kept == []


def test_a_batch_that_meets_an_outage_is_held_whole(handler: Any):
    messages = deliver(handler, body(), body(), body())
    handler.container.workers.pop(0)()
    handler.container.handle = raising(AWAY)
    handler.container.run()
    assert answers(messages) == [["ack"], [], []]
    handler.container.handle = lambda batch: [True] * len(batch)
    run_threads(handler)
    assert answers(messages) == [["ack"]] * 3 and handler.container.handled == [1, 2, 2]


def test_one_line_says_that_an_outage_begins_and_one_that_it_ends(handler: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    handler.container.handle = raising(AWAY)
    deliver(handler, body(), body())
    handler.container.run()
    handler.inbox.outage.begin("DatabaseAway", "the inbox")
    for _ in range(3):
        run_threads(handler)
    handler.container.handle = lambda batch: [True] * len(batch)
    run_threads(handler)
    assert len(caplog.messages) == 1, "the inbox has not ended it"
    handler.inbox.outage.end("the inbox")
    assert caplog.messages == [
        "event handling of a service paused: its database is away (DatabaseAway)",
        "event handling of a service resumed: its database is back after 0 s",
    ]


def test_a_failure_that_cannot_be_kept_for_an_outage_is_held(handler: Any):
    handler.container.handle = raising(REFUSED)
    handler.inbox.failure = AWAY
    messages = deliver(handler, body())
    handler.container.run()
    assert answers(messages) == [[]]
    handler.inbox.failure = None
    run_threads(handler)
    assert answers(messages) == [["ack"]] and len(handler.inbox.kept) == 1


def test_a_failure_that_the_inbox_refuses_is_not_acknowledged_and_blocks_nothing(handler: Any):
    handler.container.handle = raising(REFUSED)
    handler.inbox.failure = REFUSED
    [bad] = deliver(handler, body())
    handler.container.run()
    handler.container.handle = lambda batch: [True] * len(batch)
    [good] = deliver(handler, body())
    handler.container.run()
    assert answers([bad, good]) == [[], ["ack"]]
    run_threads(handler)
    assert answers([bad, good]) == [["ack"], ["ack"]] and handler.inbox.kept == []


def test_what_cannot_be_read_is_kept_as_a_dead_letter_and_then_acknowledged(handler: Any):
    [no_event] = deliver(handler, {"price": 0})
    undecodable = Message(handler.queue_consumer._channel)
    undecodable.body = b"\xff"
    handler.handle_undecodable(undecodable, ValueError())
    assert answers([no_event, undecodable]) == [[], []]
    run_threads(handler)
    run_threads(handler)
    assert answers([no_event, undecodable]) == [["ack"], ["ack"]]
    assert [(attempts, pause_s) for _, attempts, pause_s in handler.inbox.kept] == [(0, None)] * 2
    assert all(key.startswith("sha256:") for key, _, _ in handler.inbox.kept)


def test_a_statement_that_the_server_cancelled_is_a_failure_and_no_outage(handler: Any):
    handler.container.handle = raising(CANCELLED)
    [slow] = deliver(handler, body())
    handler.container.run()
    assert len(handler.inbox.kept) == 1 and answers([slow]) == [["ack"]]


def test_what_came_on_a_lost_connection_is_forgotten(handler: Any):
    handler.container.handle = raising(AWAY)
    stale = deliver(handler, body(), body(), body())
    handler.container.run()
    handler.queue_consumer._channel = SimpleNamespace(connection=True)
    handler.container.handle = lambda batch: [True] * len(batch)
    fresh = deliver(handler, body())
    run_threads(handler)
    assert answers(stale) == [[]] * 3 and answers(fresh) == [["ack"]]
    assert handler.container.handled == [1, 1]


def test_nothing_that_is_held_is_tried_again_once_the_service_stops(handler: Any):
    handler.container.handle = raising(AWAY)
    messages = deliver(handler, body())
    handler.container.run()
    handler._is_stopping = True
    handler.container.handle = lambda batch: [True] * len(batch)
    run_threads(handler)
    assert answers(messages) == [[]] and handler.container.handled == [1]


@pytest.mark.parametrize(
    "failure",
    [
        OSError("broken pipe"),
        BrokenPipeError(),
        amqp.RecoverableConnectionError(),
        amqp.PreconditionFailed(),
        MessageStateError("twice"),
        TimeoutError(),
    ],
)
def test_an_acknowledgement_that_fails_ends_nothing(handler: Any, failure: Exception):
    message = Message(handler.queue_consumer._channel)
    message.failure = failure
    handler.queue_consumer.ack_message(message)
    handler.queue_consumer.requeue_message(message)
    message.channel = SimpleNamespace(connection=True)  # another one, which is lost
    message.failure = AssertionError("there is nobody to acknowledge it to")
    handler.queue_consumer.ack_message(message)
    assert handler.queue_consumer.is_lost(message)


def due(attempts: int, **changed: Any) -> DueMessage:
    text = OrderPaid(order_id=uuid4(), user_id=uuid4(), price=1).model_dump_json()
    return DueMessage(1, "on_order_paid", text.encode(), "application/json", "utf-8", {}, attempts)._replace(**changed)


@pytest.mark.parametrize(
    "row, error, done",
    [
        (due(1), None, ["succeeded", "over"]),
        (due(1), REFUSED, [(2, "IntegrityError at attempt 2", 5), "over"]),
        (due(2), REFUSED, [(3, "IntegrityError at attempt 3", None), "over"]),
        (due(0), REFUSED, [(1, "IntegrityError at attempt 1", 1), "over"]),
        (due(1), CANCELLED, [(2, "TryAgain at attempt 2", 5), "over"]),
        (due(1), AWAY, ["over"]),
        (due(1, body=b"\xff"), None, [(1, "cannot be decoded: DecodeError", None), "over"]),
        (due(1, content_type="text/x"), None, [(1, "cannot be decoded: ContentDisallowed", None), "over"]),
    ],
)
def test_an_event_of_the_inbox_is_handled_again(
    handler: Any, row: DueMessage, error: Exception | None, done: list[Any]
):
    if error:
        handler.container.handle = raising(error)
    handler.handle_again(row)
    handler.container.run()
    assert handler.inbox.done == done


def test_whatever_came_can_be_stored():
    assert clean("a\0b\ud800") == "a\ufffdb?"
    assert clean(None) is None
    assert (
        as_json({"a": float("nan"), "b\0": b"\xff", "c": "\ud800"})
        == '{"a": "NaN", "b\ufffd": "b\'\\\\xff\'", "c": "?"}'
    )


class Newer(OrderPaid):
    """The same event in a later version, with one more field."""

    currency: str = "EUR"


def test_a_field_that_is_new_is_ignored_and_one_that_is_missing_has_its_default():
    newer = Newer(order_id=uuid4(), user_id=uuid4(), price=1, currency="USD")
    older = OrderPaid(order_id=uuid4(), user_id=uuid4(), price=1)
    assert OrderPaid.model_validate_json(newer.model_dump_json()).price == 1
    assert Newer.model_validate_json(older.model_dump_json()).currency == "EUR"
