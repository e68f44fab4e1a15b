"""What recovery does with the rows that are due, whatever comes of settling them."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from services.kit.amqp.rpc import RpcFailed, RpcUnavailable
from services.kit.metrics import metrics_of
from services.kit.recovery import Due, NotYet, Recovery, one_by_one
from services.kit.tracing import Tracer


class Row:
    __tablename__ = "rows"


class RowView(BaseModel):
    id: UUID


class Rows:
    """Rows that are due, `batch` at a time, and what recovery did with them."""

    def __init__(self, count: int, results=lambda row: row) -> None:
        self.due = [SimpleNamespace(id=number) for number in range(count)]
        self.results = results
        self.settled: list[Any] = []
        self.noted: dict[Any, Any] = {}

    def recover(self, interval_s: float = 60) -> None:
        recovery = Recovery(Row, RowView, ended=("done",))
        recovery.container = SimpleNamespace(
            settings=SimpleNamespace(RECOVERY_INTERVAL_S=interval_s, RECOVERY_BATCH=10), tracer=Tracer()
        )
        recovery.lease_due, recovery.note_troubles = self.lease, self.noted.update
        recovery._report = lambda: None
        recovery.run(self.settle)

    def lease(self):
        batch, self.due = self.due[:10], self.due[10:]
        return [Due(row, None) for row in batch]

    def settle(self, rows):
        self.settled += [row.id for row in rows]
        return [self.results(row) for row in rows]


def test_recovery_goes_on_while_something_is_due():
    rows = Rows(35)
    rows.recover()
    assert rows.settled == list(range(35)) and rows.noted == {}


def test_recovery_makes_room_for_the_next_round_in_time():
    rows = Rows(35)
    rows.recover(interval_s=-1)
    assert rows.settled == list(range(10))


@pytest.mark.parametrize("error", [KeyError("a defect"), RpcFailed("InvalidArgument")])
def test_recovery_notes_the_trouble_of_a_row_and_goes_on(error):
    rows = Rows(25, lambda row: error if row.id == 3 else row)
    rows.recover()
    assert rows.settled == list(range(25))
    assert list(rows.noted) == [3] and type(error).__name__ in rows.noted[3]


def test_rows_that_have_to_wait_are_no_trouble():
    rows = Rows(25, lambda row: NotYet() if row.id % 2 else row)
    rows.recover()
    assert rows.settled == list(range(25)) and rows.noted == {}


def test_recovery_stops_in_an_outage_which_is_no_trouble_of_the_rows():
    rows = Rows(25, lambda row: RpcUnavailable("silent"))
    rows.recover()
    assert rows.settled == list(range(10)) and rows.noted == {}


def test_what_is_stuck_is_an_alarm_that_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    recovery = Recovery(Row, RowView, ended=("done",))
    recovery.container = SimpleNamespace(
        service_name="unit", metrics=metrics_of("unit"), settings=SimpleNamespace(STUCK_AFTER_S=300)
    )
    recovery.database = SimpleNamespace(autocommit=lambda: nullcontext())
    for stuck in (0, 2, 2, 3, 0):
        counted = SimpleNamespace(pending=5, stuck=stuck)
        recovery.count = SimpleNamespace(run=lambda *_, counted=counted, **__: SimpleNamespace(one=lambda: counted))
        recovery._report()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "unit: 2 pending for more than 300 s; see their `trouble`"),
        ("ERROR", "unit: 3 pending for more than 300 s; see their `trouble`"),
        ("INFO", "unit: none is pending for more than 300 s any more"),
    ]


@pytest.mark.parametrize(
    "error, done", [(KeyError("a defect"), 3), (NotYet(), 3), (RpcFailed("a defect"), 3), (RpcUnavailable("silent"), 2)]
)
def test_rows_that_are_done_one_by_one_are_left_when_an_outage_begins(error, done):
    asked = []

    def work(row: str) -> str:
        asked.append(row)
        if row == "b":
            raise error
        return row.upper()

    results = one_by_one(["a", "b", "c"], work)
    assert len(asked) == done
    assert results[0] == "A" and results[1] is error
    assert results[2] == "C" if done == 3 else isinstance(results[2], NotYet)
