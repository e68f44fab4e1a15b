"""Natural batching: calls that arrive while a round is under way are done together in the next one.

Nobody waits for a batch to fill up. A call that finds no round under way starts one at once, alone. Under load, one
transaction or one message serves all the calls that came during the round before. (DeWitt et al., "Implementation
Techniques for Main Memory Database Systems", 1984: group commit; Thompson, "Smart Batching", 2011.)

A round runs in a green thread of its own, with a deadline of its own. Its callers only wait, each for its own time: one
that gives up holds up nobody, and interrupts nothing that is done for the others. The exception is `many`: it does its
list at once in the thread of the caller, beside other rounds.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from eventlet import Timeout
from eventlet.event import Event as Signal
from nameko.containers import WorkerContext
from nameko.extensions import DependencyProvider

from services.kit.errors import NOTHING_DONE, Unavailable
from services.kit.tracing import traceparent

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Does calls in rounds, one round at a time: `work` takes a list of items and returns a result for each.

    `do` takes a list, and runs at once in the thread of its caller, beside the round that is under way.

    A result that is an exception is raised to its caller. `again`: errors after which it is safe to repeat the items
    one by one, so that a bad one harms only itself. Any other error is raised to all callers of the round, and nothing
    is repeated.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        deadline_s: float,
        spawn: Callable[[Callable[[], None]], Any],
        again: tuple[type[Exception], ...] = NOTHING_DONE,
    ) -> None:
        self._work = work
        self._deadline_s = deadline_s
        self._spawn = spawn
        self._again = again
        self._waiting: dict[Signal, Item] = {}
        self._is_running = False

    @property
    def is_idle(self) -> bool:
        return not self._is_running

    def call(self, item: Item) -> Result:
        """Have `item` done in the next round; return its result, or raise it."""
        done = Signal()
        self._waiting[done] = item
        if not self._is_running:
            self._is_running = True
            self._spawn(self._run)
        try:
            result: Result | Exception = done.wait()
        finally:  # a caller that gives up before its round has begun takes its item along
            self._waiting.pop(done, None)
        if isinstance(result, Exception):
            raise result
        return result

    def do(self, items: Sequence[Item]) -> list[Result | Exception]:
        """Do `items` at once in this thread, beside other rounds; return a result or an exception for each."""
        results: list[Result | Exception] = [Unavailable("the round ran out of time")] * len(items)
        try:
            with Timeout(self._deadline_s, _RanOutOfTime()):
                for index, result in self._each(items):
                    results[index] = result
        except _RanOutOfTime:
            pass  # those without a result: their outcome is unknown
        return results

    def _run(self) -> None:
        try:
            while self._waiting:
                calls, self._waiting = self._waiting, {}
                for done, result in zip(calls, self.do(list(calls.values())), strict=True):
                    done.send(result)
        finally:
            self._is_running = False

    def _each(self, items: Sequence[Item]) -> Iterator[tuple[int, Result | Exception]]:
        try:
            yield from enumerate(self._results(items))
        except self._again as error:
            if len(items) == 1:
                yield 0, error
                return
            for index, item in enumerate(items):
                for _, result in self._each([item]):
                    yield index, result
        except Exception as error:
            if isinstance(error, _RanOutOfTime):
                raise
            yield from enumerate([error] * len(items))

    def _results(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        results = self._work(items) if items else []
        if len(results) != len(items):
            raise ValueError(f"{len(results)} results for {len(items)} items")
        return results


class _RanOutOfTime(Exception):
    """The deadline of a round is over."""


class Asked(NamedTuple):
    """An item, and the context of the trace in which it is asked for."""

    item: Any
    context: str | None


def asked(item: Any) -> Asked:
    """Return an item with the context that it carries, or else that in which it is asked for."""
    return Asked(item, getattr(item, "traceparent", None) or traceparent(about(item)))


def about(item: Any) -> Any:
    """Return what an item is about: its id, or itself."""
    return getattr(item, "id", item)


class Batched(DependencyProvider):
    """A method of a service that takes a list of items, called with one item at a time. See `batched`.

    The rounds outlive the workers that call them, so this is a dependency of the service, as the database is: there is
    one for each process, and its state is here, on the class of the service, and not on the instance of a worker.
    `key` splits the items: each key has rounds of its own, which hold up nobody else.
    """

    def __init__(
        self,
        work: Callable[[Any, Sequence[Any]], Sequence[Any]],
        key: Callable[[Any], Hashable] = lambda item: None,
        again: tuple[type[Exception], ...] = (),
    ) -> None:
        self.work = work
        self.key = key
        self.again = NOTHING_DONE + again
        self._batchers: dict[Hashable, Batcher[Any, Any]] = {}
        self._service: Any = None

    @property
    def method_name(self) -> str:
        return str(self.attr_name)

    @property
    def _name(self) -> str:
        return f"{self.container.service_name}.{self.attr_name}"

    def get_dependency(self, worker_ctx: WorkerContext) -> "BatchedMethod":
        return BatchedMethod(self)

    def batcher(self, key: Hashable) -> Batcher[Any, Any]:
        """Return the rounds of `key`, and forget those of keys that nobody uses any more."""
        if key not in self._batchers:
            self._batchers = {other: one for other, one in self._batchers.items() if not one.is_idle}
            self._batchers[key] = Batcher(
                self._do, self.container.settings.REQUEST_TIMEOUT_S, self.container.spawn_managed_thread, self.again
            )
        return self._batchers[key]

    def _do(self, asked: Sequence[Asked]) -> Sequence[Any]:
        """Call the method on an instance of the service that belongs to the rounds, and lives as long as they do."""
        if self._service is None:
            self._service = self.container.service_cls()
            context = WorkerContext(self.container, self._service, self)
            for provider in self.container.dependencies:
                setattr(self._service, provider.attr_name, provider.get_dependency(context))
        contexts = [(about(one.item), one.context) for one in asked]
        with self.container.tracer.batch(self._name, contexts):
            return self.work(self._service, [one.item for one in asked])


class BatchedMethod:
    """A batched method as a worker sees it: `self._settle_together.one(order)`, or `.many(orders)`."""

    def __init__(self, batched_: Batched) -> None:
        self._batched = batched_

    def one(self, item: Any) -> Any:
        """Have `item` done in the next round, together with others; return its result, or raise it."""
        return self._batched.batcher(self._batched.key(item)).call(asked(item))

    def many(self, items: Sequence[Any]) -> list[Any]:
        """Do `items` at once in this thread, beside other rounds; return a result or an exception for each."""
        return self._batched.batcher(None).do([asked(item) for item in items])


def batched(**options: Any) -> Callable[[Callable[[Any, Sequence[Any]], Sequence[Any]]], Any]:
    """Batch the decorated method of a service, which takes a list of items and returns a result for each.

        @batched()
        def _store(self, requests): ...

        self._store.one(request)     # together with whatever else is asked for meanwhile
        self._store.many(requests)   # these, at once, beside other rounds

    A result that is an exception is the result of its item only. See Batcher for what an error does.
    """
    return lambda work: Batched(work, **options)
