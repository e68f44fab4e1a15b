"""The protocol of an order holds in every state of its model, and each of its safeguards is needed."""

import pytest

from services.local.needs import NotInstalled
from tests.model.spin import check, ensure_spin, safeguards

#: The safeguard; the clients and faults that it takes to go wrong without it; what is violated then.
WRONG = {
    "KEY": (1, 0, "one request makes one order"),
    "ID": (2, 1, "one request makes one order"),
    "OPERATION": (1, 0, "money is taken once"),
    "REFUSAL": (2, 0, "all answers agree"),
    "BALANCE": (2, 0, "a balance is never below zero"),
    "USERS": (1, 0, "no order of a user is refused as nobody's"),
    "PROMISE": (1, 0, "an order answered 202 stays visible"),
    "GUARD": (1, 0, "an order ends once"),
    "OUTBOX": (1, 1, "the letter says how the order ended"),
    "RECOVERY": (1, 0, "every order ends"),
    "LEFT_OVER": (1, 1, "the letter says how the order ended"),
    "CONFIRM": (1, 1, "the letter says how the order ended"),
    "INBOX": (1, 1, "one letter for an order"),
    "TABLE": (1, 2, "the letter says how the order ended"),
}


@pytest.fixture(scope="module", autouse=True)
def spin() -> None:
    try:
        ensure_spin()
    except NotInstalled as error:
        pytest.skip(str(error))


def test_every_invariant_holds_in_all_states():
    checked = check(clients=2, faults=1)
    assert checked.violation is None, "\n".join(checked.story)
    assert checked.states > 100_000


def test_every_run_comes_to_an_end():
    assert not check(clients=1, faults=2, cycles=True).cycle


def test_every_safeguard_is_taken_out_once():
    assert list(WRONG) == safeguards()


@pytest.mark.parametrize("safeguard", WRONG)
def test_something_goes_wrong_without(safeguard):
    clients, faults, violated = WRONG[safeguard]
    checked = check(clients, faults, safeguard, shortest=True)
    assert checked.violation == violated, "\n".join(checked.story)
    assert sum(step.startswith("FAULT") for step in checked.story) == faults
