"""Following a table: one statement for all streams, and streams that outlive an outage."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import eventlet
import pytest
from pydantic import BaseModel

from services.kit import feed as module
from services.kit.db.commits import NOWHERE, Position
from services.kit.errors import DatabaseAway
from services.kit.feed import Entry, Feed
from tests.unit.kit.table import Table, wait_for

LONG_S = 5


class Row:
    __tablename__ = "rows"


class RowView(BaseModel):
    number: int


class Rows(Table):
    """What was asked of the table. Row n is that of transaction n."""

    def __init__(self) -> None:
        super().__init__()
        self.owners: list[UUID] = []
        self.looks = self.reads = 0
        self.feed = Feed(Row, "owner")
        self.stand_behind(self.feed, "following")

    def after(self, transaction: int) -> list[tuple[int, UUID]]:
        return list(enumerate(self.owners, start=1))[transaction:]

    def find(self, connection: Any, transaction: int, id: UUID) -> Any:
        self.looks += 1
        found = [SimpleNamespace(transaction=n, id=NOWHERE, owner=owner) for n, owner in self.after(transaction)]
        return SimpleNamespace(all=lambda: found)

    def follow(self, owner: UUID | None) -> list[bytes]:
        """Follow the rows of `owner` in a thread; return the list of what comes."""

        def read(position: Position) -> Sequence[Entry]:
            self.reads += 1
            eventlet.sleep(0)
            if self.failure:
                raise self.failure
            return [
                Entry(Position(1, n, NOWHERE), "row", RowView(number=n))
                for n, whose in self.after(position.transaction)
                if owner in (None, whose)
            ]

        came: list[bytes] = []

        def keep() -> None:
            for block in self.feed.follow(owner, Position(1, 0, NOWHERE), read):
                came.append(block)

        self.spawn(keep)
        return came


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rows]:
    made = Rows()
    monkeypatch.setattr(module, "start", lambda connection, after: Position(1, len(made.owners), NOWHERE))
    for name, seconds in (("HEARTBEAT_S", 0.2), ("POLL_S", 0.05), ("AGAIN_S", 0.05), ("FIRST_PAUSE_S", 0.05)):
        monkeypatch.setattr(module, name, seconds)
    yield made
    for thread in made.threads:
        thread.kill()


def events(blocks: list[bytes]) -> int:
    return b"".join(blocks).count(b"data: ")


def test_streams_share_a_statement_and_only_those_read_whose_rows_have_come(rows: Rows):
    mine = uuid4()
    streams = [rows.follow(mine), rows.follow(None), *(rows.follow(uuid4()) for _ in range(100))]
    wait_for(lambda: rows.reads >= 2 * len(streams), LONG_S, "the first reads")  # again when we know where we are
    reads, looks = rows.reads, rows.looks
    rows.owners.append(mine)
    wait_for(lambda: events(streams[0]) and events(streams[1]), LONG_S, "both events")
    wait_for(lambda: rows.looks > looks + 2, LONG_S, "more polls")
    assert rows.reads - reads == 4  # and once more each, to see that there is nothing else
    assert sum(map(events, streams)) == 2


def test_what_is_stored_here_comes_at_once(rows: Rows, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "POLL_S", 10 * LONG_S)
    mine = uuid4()
    came = rows.follow(mine)
    wait_for(lambda: rows.reads == 2, LONG_S, "the first reads")
    rows.owners.append(mine)
    rows.feed.tell()
    wait_for(lambda: events(came), LONG_S, "the event")


def test_nobody_looks_while_no_stream_is_open(rows: Rows):
    rows.follow(None)
    wait_for(lambda: rows.looks > 2, LONG_S, "some polls")
    rows.threads[0].kill()
    wait_for(lambda: all(thread.dead for thread in rows.threads), LONG_S, "the end of the poll")
    assert not rows.feed._waiting
    rows.owners.append(uuid4())
    again = rows.follow(None)
    wait_for(lambda: events(again) == 1, LONG_S, "the event")
    rows.owners.append(uuid4())
    wait_for(lambda: events(again) == 2, LONG_S, "the event that comes while it waits")


@pytest.mark.parametrize("failure", [DatabaseAway("", {}, Exception()), ValueError("a defect")])
def test_a_stream_outlives_an_outage_and_shows_that_it_lives(rows: Rows, failure: Exception, monkeypatch: Any):
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.05)
    came = rows.follow(None)
    wait_for(lambda: rows.looks > 1, LONG_S, "some polls")
    rows.failure = failure
    if isinstance(failure, DatabaseAway):
        before = len(came)
        wait_for(lambda: len(came) > before + 1, LONG_S, "heartbeats")
        rows.owners.append(uuid4())
        rows.failure = None
        wait_for(lambda: events(came) == 1, LONG_S, "the event")
    else:
        wait_for(lambda: rows.threads[0].dead, LONG_S, "the end of the stream, whose client comes back")
