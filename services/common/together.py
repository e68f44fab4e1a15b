"""Natural batching: calls that arrive while others are under way are done together in the next round.

Nobody waits for a batch to fill up. A call that finds no round under way begins one at once, alone; under load
one transaction, or one message, serves all the calls that came during the round before. (DeWitt et al.,
"Implementation Techniques for Main Memory Database Systems", 1984: group commit; Thompson, "Smart Batching", 2011.)
"""
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from eventlet.event import Event

from services.common.problems import OUTCOME_UNKNOWN, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


class Call(Generic[Item]):
    """One caller's item, and what became of it."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.turn = Event()  # sent when the call is done, or is to lead the next round
        self.result: Any = Unavailable("the round was broken off")

    def answer(self) -> Any:
        """Give the result; raise it if it is an exception."""
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class together(Generic[Item, Result]):
    """Decorates a method of a service that takes a list of items and gives their results; it is called with one item.

    A result that is an exception is raised to its caller. When the method itself raises, all callers of the round
    get that if the outcome is unknown; otherwise each item is done again alone, so that a bad one harms only itself.
    """

    def __init__(self, work: Callable[[Any, Sequence[Item]], Sequence[Result | Exception]]) -> None:
        self.work = work
        self._waiting: list[Call[Item]] = []
        self._leader: Call[Item] | None = None

    def __get__(self, service: Any, owner: type) -> "Bound[Item, Result]":
        return Bound(self, service)

    def call(self, service: Any, item: Item) -> Result:
        """Wait for the round under way, then lead the next, or have another caller's worker lead it."""
        call = Call(item)
        self._waiting.append(call)
        try:
            if self._leader is None:
                self._leader = call
            else:
                call.turn.wait()
            if self._leader is call:
                calls, self._waiting = self._waiting, []
                self._round(service, calls)
        finally:  # also when the caller's deadline is over
            if call in self._waiting:
                self._waiting.remove(call)
            if self._leader is call:
                self._hand_over()
        return call.answer()

    def _hand_over(self) -> None:
        self._leader = self._waiting[0] if self._waiting else None
        if self._leader:
            self._leader.turn.send()

    def _round(self, service: Any, calls: list[Call[Item]]) -> None:
        try:
            self._do(service, calls)
        finally:
            for call in calls:
                if call is not self._leader:
                    call.turn.send()

    def call_all(self, service: Any, items: Sequence[Item]) -> list[Result]:
        """Do `items` now, in a round of their own; what one of them raised is raised when all have been tried."""
        calls = [Call(item) for item in items]
        if calls:
            self._do(service, calls)
        return [call.answer() for call in calls]

    def _do(self, service: Any, calls: list[Call[Item]]) -> None:
        results: Sequence[Result | Exception]
        try:
            results = self.work(service, [call.item for call in calls])
        except OUTCOME_UNKNOWN as error:
            results = [error] * len(calls)
        except Exception as error:
            if len(calls) > 1:
                for call in calls:
                    self._do(service, [call])
                return
            results = [error]
        for call, result in zip(calls, results, strict=True):
            call.result = result


class Bound(Generic[Item, Result]):
    """A decorated method of one service instance."""

    def __init__(self, together_: together[Item, Result], service: Any) -> None:
        self._together = together_
        self._service = service

    def __call__(self, item: Item) -> Result:
        return self._together.call(self._service, item)

    def all(self, items: Sequence[Item]) -> list[Result]:
        return self._together.call_all(self._service, items)
