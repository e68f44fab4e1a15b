"""Following a table: streams of its rows, in the order of their commits, to any number of clients.

All streams of a process share one statement each POLL_S, whichever process stores the rows; it says whose rows have
come. What is stored in this process is looked for at once. A stream whose rows have come reads them from its own
position on, so what a slow client has not read stays in the database, and nothing has to be kept here for it.

While the database is away the streams stay open.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import eventlet
from eventlet.event import Event as Signal
from nameko.extensions import DependencyProvider
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from services.kit.db.commits import FINAL, Position, start
from services.kit.db.database import Database
from services.kit.db.statements import PreparedStatement
from services.kit.errors import TEMPORARY
from services.kit.outage import FIRST_PAUSE_S, LONGEST_PAUSE_S, Outage
from services.kit.web.pages import DEFAULT_LIMIT, Limit
from services.kit.web.sse import HEARTBEAT, HEARTBEAT_S, event, place

log = logging.getLogger(__name__)

POLL_S = 0.25
FIRST_POLL_S = 0.02  # after rows were stored here: they are final once what began before them has ended
AGAIN_S = 1.0  # until a read is repeated that has failed
ROWS = 1000  # that are looked through at a time


def _position(after: Any) -> Any:
    try:
        return Position.of(after) if isinstance(after, str) else after
    except ValueError:
        raise ValueError("should be the `id` of an event, the `next` of a page, or `beginning`") from None


class FeedQuery(BaseModel):
    """Whose rows, and after which position. Other parameters are refused."""

    model_config = ConfigDict(extra="forbid")

    limit: Limit = DEFAULT_LIMIT
    user_id: Annotated[UUID | None, Field(description="Whose; of everybody without it")] = None
    after: Annotated[
        Position | None,
        BeforeValidator(_position, json_schema_input_type=str),
        Field(description="After which: the `next` of a page, or `beginning`; from now on without it"),
    ] = None


class Entry(NamedTuple):
    """A row as a client gets it, and the position after it."""

    position: Position
    type: str
    view: BaseModel


class Feed(DependencyProvider):
    """Follows the rows of one table: `feed = Feed(models.Letter, "user_id")`. The column says whose a row is."""

    def __init__(self, model: Any, owner: str) -> None:
        self.table = model.__tablename__
        self.find = PreparedStatement(
            f"news_of_{self.table}",
            f"""
            select transaction::text::bigint as transaction, id, {owner} as owner from {self.table}
            where (transaction, id) > ({{transaction}}::text::xid8, {{id}}) and {FINAL}
            order by {self.table}.transaction, id limit {ROWS}""",
            transaction="bigint",
            id="uuid",
        )
        self._open = 0
        self._waiting: dict[Signal, UUID | None] = {}  # None: for everybody's
        self._told = Signal()
        self._position: Position | None = None
        self._is_polling = False

    def get_dependency(self, worker_ctx: Any) -> "Feed":
        return self

    def setup(self) -> None:
        [self.database] = [one for one in self.container.dependencies if isinstance(one, Database)]
        self._outage = Outage(f"following {self.table} of {self.container.service_name}", "its database")

    def tell(self) -> None:
        """Say that rows were stored here."""
        if not self._told.ready():
            self._told.send(True)

    def follow(
        self, owner: UUID | None, position: Position, read: Callable[[Position], Sequence[Entry]]
    ) -> Iterator[bytes]:
        """Send the rows of `owner`, or of everybody, that come after `position`, as server-sent events, for ever.

        `read` returns the first of them. The first thing that is sent is the position itself: a client that is cut off
        before its first event then comes back to the right place.
        """
        self._open += 1
        try:
            self._poll_from_now_on()
            yield place(position)
            while True:
                news = Signal()
                self._waiting[news] = owner  # before reading, so that nothing can come unnoticed between the two
                try:
                    entries = read(position)
                    while not entries and not news.wait(HEARTBEAT_S):
                        yield HEARTBEAT
                except TEMPORARY:
                    yield HEARTBEAT
                    eventlet.sleep(AGAIN_S)
                    continue
                finally:
                    self._waiting.pop(news, None)
                if entries:
                    yield b"".join(event(one.position, one.type, one.view.model_dump_json()) for one in entries)
                    position = entries[-1].position
        finally:
            self._open -= 1

    def _poll_from_now_on(self) -> None:
        if not self._is_polling:
            self._is_polling = True
            self.container.spawn_managed_thread(self._poll, identifier=f"following {self.table}")

    def _poll(self) -> None:
        """Look for rows while a stream is open: every POLL_S, and sooner after some were stored here."""
        self._position, pause_s = None, POLL_S
        try:
            while self._open:
                self._told = Signal()
                if self._look():
                    continue
                if self._told.wait(pause_s):
                    pause_s = FIRST_POLL_S
                    eventlet.sleep(pause_s)
                else:
                    pause_s = min(2 * pause_s, POLL_S)
        finally:
            self._is_polling = False

    def _look(self) -> bool:
        """Wake the streams whose rows have come since the last time; return whether there may be more."""
        try:
            with self.database.autocommit() as connection:
                if self._position is None:
                    self._position, rows = start(connection, None), None
                else:
                    rows = self.find.run(connection, transaction=self._position.transaction, id=self._position.id).all()
            self._outage.end()
        except TEMPORARY as error:
            self._outage.begin(type(error).__name__)
            eventlet.sleep(FIRST_PAUSE_S)
            return False
        except Exception:
            log.exception("%s cannot be followed", self.table)
            self._wake(set(self._waiting.values()))  # they look for themselves
            eventlet.sleep(LONGEST_PAUSE_S)
            return False
        if rows is None:  # streams may have read before we knew where we are
            self._wake(set(self._waiting.values()))
            return False
        if rows:
            self._position = self._position._replace(transaction=rows[-1].transaction, id=rows[-1].id)
            self._wake({row.owner for row in rows})
        return len(rows) == ROWS

    def _wake(self, owners: set[UUID | None]) -> None:
        for news, owner in list(self._waiting.items()):
            if owner is None or owner in owners:
                del self._waiting[news]
                news.send(True)
