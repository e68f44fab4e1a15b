"""Natural batching: who is done with whom, who gets which result, and for how long anybody waits."""

from types import SimpleNamespace

import eventlet
import pytest
from eventlet import Timeout
from eventlet.event import Event
from sqlalchemy.exc import DataError

from services.kit.batching import Batched, Batcher
from services.kit.errors import Unavailable
from services.kit.tracing import Tracer
from tests.clock import simulated_clock

DEADLINE_S = 10


class Late(Exception):
    """The caller's deadline."""


class Doubling:
    """Doubles numbers, together; holds each round until it is told to go on."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.go_on = Event()
        self.batcher = Batcher(self.work, DEADLINE_S, eventlet.spawn)

    def double(self, number: int) -> int:
        return self.batcher.call(number)

    def work(self, numbers):
        self.rounds.append(list(numbers))
        self.go_on.wait()
        if 13 in numbers:
            raise DataError("13", {}, ValueError())
        if 99 in numbers:
            raise Unavailable("away")
        if 66 in numbers:
            raise KeyError("a defect")
        return [ZeroDivisionError() if number == 0 else 2 * number for number in numbers]


@pytest.fixture
def service():
    return Doubling()


def test_who_comes_first_goes_alone_and_the_next_round_takes_all_who_came_meanwhile(service):
    callers = []
    for number in range(1, 6):
        callers.append(eventlet.spawn(service.double, number))
        eventlet.sleep(0)
        eventlet.sleep(0)
    service.go_on.send()
    assert [caller.wait() for caller in callers] == [2, 4, 6, 8, 10]
    assert service.rounds == [[1], [2, 3, 4, 5]]
    assert service.double(6) == 12
    assert service.rounds[2:] == [[6]]


def in_one_round(service, *numbers):
    """Callers whose items are done in one round, behind a first one that goes alone."""
    first = eventlet.spawn(service.double, 1)
    while not service.rounds:
        eventlet.sleep(0)
    callers = [eventlet.spawn(service.double, number) for number in numbers]
    eventlet.sleep(0)
    service.go_on.send()
    assert first.wait() == 2
    return callers


def test_each_caller_gets_its_own_result_or_exception(service):
    one, zero, two = in_one_round(service, 1, 0, 2)
    assert one.wait() == 2 and two.wait() == 4
    with pytest.raises(ZeroDivisionError):
        zero.wait()


def test_a_bad_item_harms_only_itself(service):
    two, bad, three = in_one_round(service, 2, 13, 3)
    assert (two.wait(), three.wait()) == (4, 6)
    with pytest.raises(DataError):
        bad.wait()
    assert service.rounds == [[1], [2, 13, 3], [2], [13], [3]]


@pytest.mark.parametrize("number, error", [(99, Unavailable), (66, KeyError)])
def test_what_does_not_prove_that_nothing_was_done_is_not_done_again(service, number, error):
    callers = in_one_round(service, 2, number)
    for caller in callers:
        with pytest.raises(error):
            caller.wait()
    assert service.rounds == [[1], [2, number]]


def call_with_deadline(service, number, deadline_s):
    with Timeout(deadline_s, Late()):
        return service.double(number)


def test_a_caller_whose_deadline_is_over_breaks_off_nothing(service):
    with simulated_clock():
        late = eventlet.spawn(call_with_deadline, service, 1, 1)
        while not service.rounds:
            eventlet.sleep(0)
        other = eventlet.spawn(service.double, 2)
        with pytest.raises(Late):
            late.wait()
        service.go_on.send()
        assert other.wait() == 4
        assert service.rounds == [[1], [2]]


def test_who_gives_up_before_its_turn_is_not_done_and_holds_up_nobody(service):
    with simulated_clock():
        first = eventlet.spawn(service.double, 1)
        while not service.rounds:
            eventlet.sleep(0)
        late = eventlet.spawn(call_with_deadline, service, 2, 1)
        third = eventlet.spawn(service.double, 3)
        with pytest.raises(Late):
            late.wait()
        service.go_on.send()
        assert (first.wait(), third.wait()) == (2, 6)
        assert service.rounds == [[1], [3]]


def test_a_round_has_a_deadline_of_its_own_and_the_next_one_is_fresh(service):
    with simulated_clock() as clock:
        stuck = eventlet.spawn(service.double, 1)
        while not service.rounds:
            eventlet.sleep(0)
        started = clock()
        behind = eventlet.spawn(service.double, 2)
        with pytest.raises(Unavailable):
            stuck.wait()
        assert clock() - started == pytest.approx(DEADLINE_S)
        service.go_on.send()
        assert behind.wait() == 4


def test_what_was_done_before_the_deadline_of_a_round_is_told(service):
    def work(numbers):
        if len(numbers) > 1:
            raise DataError("one of them", {}, ValueError())
        if numbers == [2]:
            eventlet.sleep(2 * DEADLINE_S)
        return [number * 2 for number in numbers]

    with simulated_clock():
        one, two, three = Batcher(work, DEADLINE_S, eventlet.spawn).do([1, 2, 3])
    assert one == 2
    assert isinstance(two, Unavailable) and isinstance(three, Unavailable)


def test_a_result_too_few_is_a_defect_and_not_somebody_elses_result():
    batcher: Batcher[int, int] = Batcher(lambda numbers: numbers[1:], DEADLINE_S, eventlet.spawn)
    results = batcher.do([1, 2])
    assert [type(result) for result in results] == [ValueError, ValueError]


def test_a_list_is_done_at_once_and_an_empty_one_not_at_all(service):
    service.go_on.send()
    assert service.batcher.do([1, 2]) == [2, 4]
    assert service.batcher.do([]) == []
    assert service.rounds == [[1, 2]]
    good, bad = service.batcher.do([1, 0])
    assert good == 2 and isinstance(bad, ZeroDivisionError)


def test_each_key_has_rounds_of_its_own_and_is_forgotten_when_nobody_needs_it():
    go_on = Event()

    def work(service, items):
        if "held" in items:
            go_on.wait()
        return items

    by_key = Batched(work, key=lambda item: item)
    by_key.container = SimpleNamespace(
        tracer=Tracer(),
        settings=SimpleNamespace(REQUEST_TIMEOUT_S=DEADLINE_S),
        spawn_managed_thread=eventlet.spawn,
        config={},
        service_name="unit",
        service_cls=SimpleNamespace,
        dependencies=[],
    )
    call = by_key.get_dependency(None).one
    with Timeout(DEADLINE_S, Late()):
        held = eventlet.spawn(call, "held")
        eventlet.sleep(0)
        assert [call(item) for item in ("free", "another")] == ["free", "another"]
        go_on.send()
        assert held.wait() == "held"
        call("one more")
    assert list(by_key._batchers) == ["one more"]
