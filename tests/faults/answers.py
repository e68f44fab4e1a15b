"""What clients are answered in an outage, and whether the system heals when it is over."""

import time

from services.local.net import wait_for
from services.local.stack import Stack
from tests.books import violations, wait_until_quiet
from tests.client import Api

ANSWER_S = 4 + 2 + 2  # the deadline of a request, the wait for a worker, and slack for a busy machine
HEALED_S = 60


def statuses(api: Api, user_id: str, what: str, seconds: float) -> set[int]:
    """Place orders, read and deposit for so many seconds; check that each answer comes in time, and return their codes.

    `what` makes the Idempotency-Keys differ from those of other outages.
    """
    seen = set()
    deadline, number = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        number += 1
        for path, body in (
            ("/orders", {"user_id": user_id, "price": 1}),
            (f"/orders?user_id={user_id}", None),
            (f"/billing/accounts/{user_id}/deposit", {"amount": 1}),
        ):
            started = time.monotonic()
            answer = api.post(path, body, f"{user_id} {what} {number}") if body else api.get(path)
            assert time.monotonic() - started < ANSWER_S
            assert answer.status_code in (200, 201, 202, 503), answer.text
            assert answer.status_code != 503 or int(answer.headers["Retry-After"]) >= 1
            seen.add(answer.status_code)
    return seen


def check_that_it_heals(stack: Stack, api: Api, user_id: str) -> None:
    """Wait until the services are ready; then an order is answered, its letter comes, and the invariants hold."""
    wait_for(stack.is_ready, HEALED_S, "the services to be ready again")
    paid = api.order(user_id, 1, f"{user_id} after the outage")
    assert paid.status_code in (201, 202)
    wait_until_quiet(stack)
    assert violations(stack) == []
    assert any(letter["order_id"] == paid.json()["id"] for letter in api.letters(user_id, 1))
