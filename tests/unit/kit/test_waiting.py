"""Waiting for rows to end: one statement for all, a deadline for each, and nothing left behind."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import eventlet
import pytest
from eventlet import Timeout
from pydantic import BaseModel, ConfigDict

from services.kit import waiting as module
from services.kit.errors import DatabaseAway
from services.kit.waiting import Ends
from tests.unit.kit.table import Table, wait_for

LONG_S, SHORT_S = 5, 0.05


class Row:
    __tablename__ = "rows"


class RowView(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: UUID
    status: str


class Late(Exception):
    """A wait takes too long."""


class Rows(Table):
    """What was asked of the table."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[UUID, Any] = {}
        self.asked: list[set[UUID]] = []
        self.ends = Ends(Row, RowView, ended=("paid", "rejected"))
        self.stand_behind(self.ends, "waiting")

    def find(self, connection: Any, ids: list[UUID]) -> Any:
        assert len(ids) == len(set(ids))
        self.asked.append(set(ids))
        eventlet.sleep(0.001)
        found = [self.ended[id_] for id_ in ids if id_ in self.ended]
        return SimpleNamespace(all=lambda: found)

    def end(self, id_: UUID) -> None:
        self.ended[id_] = SimpleNamespace(id=id_, status="paid")

    def wait(self, id_: UUID, seconds: float = LONG_S) -> Any:
        with Timeout(2 * LONG_S, Late()):
            return self.ends.wait(id_, seconds)

    def nothing_is_left(self) -> None:
        assert not self.ends._waiting
        wait_for(lambda: all(thread.dead for thread in self.threads), LONG_S, "the thread that asks to end")


@pytest.fixture
def rows() -> Iterator[Rows]:
    """A table of which nobody waits any more when the test ends."""
    rows = Rows()
    yield rows
    rows.nothing_is_left()


def away() -> DatabaseAway:
    return DatabaseAway("select", {}, Exception("away"))


def test_a_row_that_has_ended_already_is_returned_at_once(rows: Rows):
    one = uuid4()
    rows.end(one)
    assert rows.wait(one) == RowView(id=one, status="paid")
    assert rows.asked == [{one}]


def test_a_row_that_ends_meanwhile_is_returned(rows: Rows):
    one = uuid4()
    eventlet.spawn_after(SHORT_S, rows.end, one)
    assert rows.wait(one).id == one


@pytest.mark.parametrize("seconds", [0, -1])
def test_who_has_no_time_to_wait_asks_nothing(rows: Rows, seconds: float):
    assert rows.wait(uuid4(), seconds) is None
    assert not rows.threads


def test_who_waits_is_let_go_in_time(rows: Rows):
    assert rows.wait(uuid4(), SHORT_S) is None


def test_all_that_wait_share_one_statement(rows: Rows):
    ids = [uuid4() for _ in range(50)]
    waiting = [eventlet.spawn(rows.wait, id_) for id_ in ids * 2]
    wait_for(lambda: len(rows.asked) >= 3, LONG_S, "some statements")
    assert all(asked == set(ids) for asked in rows.asked), "each asks for all rows, and for each once"
    for id_ in ids:
        rows.end(id_)
    assert [thread.wait().id for thread in waiting] == ids * 2
    assert len(rows.threads) == 1


def test_statements_have_a_pause_between_them(rows: Rows, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "POLL_S", SHORT_S)
    rows.wait(uuid4(), 5 * SHORT_S)
    assert 1 <= len(rows.asked) <= 6


def test_what_ends_in_this_process_is_told_at_once(rows: Rows, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "POLL_S", 1.0)
    one, other = uuid4(), uuid4()
    waiting = [eventlet.spawn(rows.wait, id_) for id_ in (one, one, other)]
    wait_for(lambda: rows.asked, LONG_S, "the first statement")
    told = RowView(id=one, status="rejected")
    rows.ends.tell([RowView(id=other, status="pending"), told, RowView(id=uuid4(), status="paid")])
    assert [thread.wait() for thread in waiting[:2]] == [told, told]
    assert len(rows.asked) == 1, "nobody has asked for it"
    rows.end(other)
    assert waiting[2].wait().status == "paid", "a row that is pending wakes nobody"


def test_telling_twice_or_nobody_is_harmless(rows: Rows):
    one = uuid4()
    rows.ends.tell([RowView(id=one, status="paid")])
    waiting = eventlet.spawn(rows.wait, one)
    wait_for(lambda: rows.asked, LONG_S, "the first statement")
    for _ in range(2):
        rows.ends.tell([RowView(id=one, status="paid")])
    rows.end(one)
    assert waiting.wait().id == one


def test_while_the_database_is_away_everybody_waits(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(module, "FIRST_PAUSE_S", SHORT_S)
    caplog.set_level("INFO")
    rows.failure = away()
    one = uuid4()
    patient, impatient = eventlet.spawn(rows.wait, one), eventlet.spawn(rows.wait, uuid4(), 4 * SHORT_S)
    assert impatient.wait() is None, "it has waited until its time was up"
    rows.failure = None
    rows.end(one)
    assert patient.wait().id == one
    assert [record.getMessage().partition(" after ")[0] for record in caplog.records] == [
        "waiting paused: its database is away (DatabaseAway)",
        "waiting resumed: its database is back",
    ]


def test_a_defect_is_raised_and_not_waited_for(rows: Rows):
    rows.failure = KeyError("a defect")
    waiting = [eventlet.spawn(rows.wait, uuid4()) for _ in range(2)]
    for thread in waiting:
        with pytest.raises(KeyError):
            thread.wait()


def test_a_row_that_cannot_be_read_harms_only_who_waits_for_it(rows: Rows):
    one, other = uuid4(), uuid4()
    rows.ended = {one: SimpleNamespace(id="no id", status="paid"), other: SimpleNamespace(id=other, status="paid")}
    rows.ended[one].id, rows.ended[one].status = one, Unreadable("paid")
    broken, fine = eventlet.spawn(rows.wait, one), eventlet.spawn(rows.wait, other)
    with pytest.raises(ValueError, match="RowView"):
        broken.wait()
    assert fine.wait().id == other


class Unreadable:
    """A status that no view takes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


@pytest.mark.parametrize("how", ["gives up", "is killed"])
def test_who_gives_up_leaves_nothing_behind(rows: Rows, how: str):
    waiting = eventlet.spawn(give_up, rows) if how == "gives up" else eventlet.spawn(rows.wait, uuid4())
    wait_for(lambda: rows.asked, LONG_S, "the first statement")
    if how == "is killed":
        waiting.kill()
    else:
        waiting.wait()
    rows.nothing_is_left()
    count = len(rows.asked)
    eventlet.sleep(2 * module.POLL_S)
    assert len(rows.asked) == count


def give_up(rows: Rows) -> None:
    with pytest.raises(Late), Timeout(SHORT_S, Late()):
        rows.ends.wait(uuid4(), LONG_S)


def test_the_thread_that_asks_comes_back_when_somebody_waits_again(rows: Rows):
    for _ in range(2):
        assert rows.wait(uuid4(), SHORT_S) is None
        rows.nothing_is_left()
    assert len(rows.threads) == 2


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_service_that_stops_lets_go_of_all_that_wait(rows: Rows, end: str):
    waiting = [eventlet.spawn(rows.wait, uuid4()) for _ in range(3)]
    wait_for(lambda: rows.asked, LONG_S, "the first statement")
    getattr(rows.ends, end)()
    assert [thread.wait() for thread in waiting] == [None] * 3
    assert rows.wait(uuid4()) is None and len(rows.threads) == 1
