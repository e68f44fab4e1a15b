"""Natural batching: who is done with whom, and who gets which result."""
import eventlet
import pytest
from eventlet import Timeout
from eventlet.event import Event

from services.common.problems import Unavailable
from services.common.together import together


class Late(Exception):
    """The caller's deadline."""


class Service:
    """Doubles numbers, together; holds each round until it is told to go on."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.go_on = Event()

    def double(self, number: int) -> int:
        return self._double(number)

    @together
    def _double(self, numbers):
        self.rounds.append(list(numbers))
        self.go_on.wait()
        if 13 in numbers:
            raise ValueError("13")
        if 99 in numbers:
            raise Unavailable("away")
        return [ZeroDivisionError() if number == 0 else 2 * number for number in numbers]


@pytest.fixture
def service():
    """A service, in a class of its own: what waits is kept by the class."""
    class Fresh(Service):
        _double = together(Service.__dict__["_double"].work)
    return Fresh()


def test_who_comes_first_goes_alone_and_the_next_round_takes_all_who_came_meanwhile(service):
    callers = []
    for number in range(1, 6):
        callers.append(eventlet.spawn(service.double, number))
        eventlet.sleep(0)
    service.go_on.send()
    assert [caller.wait() for caller in callers] == [2, 4, 6, 8, 10]
    assert service.rounds == [[1], [2, 3, 4, 5]]
    assert service.double(6) == 12
    assert service.rounds[2:] == [[6]]


def test_each_caller_gets_its_own_result_or_exception(service):
    service.go_on.send()
    callers = [eventlet.spawn(service.double, number) for number in (1, 0, 2)]
    assert callers[0].wait() == 2 and callers[2].wait() == 4
    with pytest.raises(ZeroDivisionError):
        callers[1].wait()


def test_a_bad_item_harms_only_itself(service):
    callers = [eventlet.spawn(service.double, number) for number in (1, 2, 13, 3)]
    eventlet.sleep(0)
    service.go_on.send()
    assert [callers[index].wait() for index in (0, 1, 3)] == [2, 4, 6]
    with pytest.raises(ValueError):
        callers[2].wait()
    assert service.rounds == [[1], [2, 13, 3], [2], [13], [3]]


def test_an_unknown_outcome_is_unknown_to_all_of_the_round_and_nothing_is_done_twice(service):
    callers = [eventlet.spawn(service.double, number) for number in (1, 2, 99)]
    eventlet.sleep(0)
    service.go_on.send()
    assert callers[0].wait() == 2
    for caller in callers[1:]:
        with pytest.raises(Unavailable):
            caller.wait()
    assert service.rounds == [[1], [2, 99]]


def call_with_deadline(service, number):
    with Timeout(0.05, Late()):
        return service.double(number)


def test_a_leader_whose_deadline_is_over_leaves_nobody_waiting(service):
    late = eventlet.spawn(call_with_deadline, service, 1)
    eventlet.sleep(0)
    other = eventlet.spawn(service.double, 2)
    with pytest.raises(Late):
        late.wait()
    service.go_on.send()
    assert other.wait() == 4
    assert service.rounds == [[1], [2]]


def test_who_gives_up_before_its_turn_is_not_done_and_holds_up_nobody(service):
    first = eventlet.spawn(service.double, 1)
    eventlet.sleep(0)
    late = eventlet.spawn(call_with_deadline, service, 2)
    third = eventlet.spawn(service.double, 3)
    with pytest.raises(Late):
        late.wait()
    service.go_on.send()
    assert (first.wait(), third.wait()) == (2, 6)
    assert service.rounds == [[1], [3]]


def test_a_leader_to_be_that_dies_at_that_very_moment_hands_over(service):
    first = eventlet.spawn(service.double, 1)
    eventlet.sleep(0)
    second, third = eventlet.spawn(service.double, 2), eventlet.spawn(service.double, 3)
    eventlet.sleep(0)
    first.link(lambda _: second.throw(Late()))
    service.go_on.send()
    assert first.wait() == 2
    assert third.wait() == 6
    with pytest.raises(Late):
        second.wait()


def test_a_list_is_done_at_once_and_an_empty_one_not_at_all(service):
    service.go_on.send()
    assert service._double.all([1, 2]) == [2, 4]
    assert service._double.all([]) == []
    assert service.rounds == [[1, 2]]
    with pytest.raises(ZeroDivisionError):
        service._double.all([1, 0])
