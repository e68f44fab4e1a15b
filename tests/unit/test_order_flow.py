"""What a client is told of its order, for everything that may come of settling it; and what recovery does about it."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from services.contracts import Outcome
from services.kit.amqp.rpc import RpcFailed, RpcUnavailable
from services.kit.busy import Busy
from services.kit.errors import CallFailed, TryAgain, Unavailable
from services.kit.web.problems import Problem
from services.orders.broker import OrdersService
from services.orders.domain import NewOrder, OrderStatus, OrderView, apply_outcome
from services.orders.service import AccountBusy, NoAccount, read_outcome
from services.orders.store import StoredOrder

CONFIG = {"RPC_TIMEOUT_S": 1, "REQUEST_TIMEOUT_S": 3}
PENDING = OrderView(
    id=uuid4(), user_id=uuid4(), price=5, status=OrderStatus.PENDING, reason=None, created_at=datetime.now(UTC)
)
PAID = apply_outcome(PENDING, Outcome.ACCEPTED)
REJECTED = apply_outcome(PENDING, Outcome.INSUFFICIENT_FUNDS)
NOT_FOUND = apply_outcome(PENDING, Outcome.REFUSED)


def raising(error: Exception):
    def raise_it(*_):
        raise error

    return raise_it


def place(
    stored: StoredOrder = StoredOrder(PENDING, True, False),  # noqa: B008
    settle=lambda order: PAID,
    busy=lambda order: PAID,
    refuse=lambda order: NOT_FOUND,
    promise=lambda order: (order, True),
):
    """Answer `POST /orders` by a service whose steps are given."""
    service = OrdersService()
    service.config = CONFIG
    service._store = SimpleNamespace(one=lambda request: stored)
    service._settle_together, service._settle_busy = SimpleNamespace(one=settle), SimpleNamespace(one=busy)
    service._refuse, service._promise = refuse, SimpleNamespace(one=lambda id_: promise(PENDING))
    body = NewOrder(user_id=PENDING.user_id, price=5)
    reply = OrdersService.create_order(service, 3, {"key": None, "body": body, "wait_s": None})
    return reply.later(0.0) if reply.later else reply


@pytest.mark.parametrize(
    "steps, status, order",
    [
        ({}, 201, PAID),
        ({"settle": lambda order: REJECTED}, 201, REJECTED),
        ({"settle": lambda order: PENDING}, 202, PENDING),  # somebody else held the order
        ({"settle": raising(RpcUnavailable("silent"))}, 202, PENDING),
        ({"settle": raising(RpcFailed("MethodNotFound"))}, 202, PENDING),
        ({"settle": raising(TryAgain("", {}, Exception()))}, 202, PENDING),
        ({"settle": raising(AccountBusy())}, 201, PAID),
        ({"settle": raising(AccountBusy()), "busy": raising(AccountBusy())}, 202, PENDING),
        ({"settle": raising(NoAccount()), "refuse": raising(NoAccount())}, 202, PENDING),
        (
            {"settle": raising(Unavailable()), "promise": lambda order: (PAID, False)},
            201,
            PAID,
        ),  # it has ended meanwhile
        ({"settle": raising(Unavailable()), "promise": lambda order: (NOT_FOUND, True)}, 201, NOT_FOUND),
        ({"stored": StoredOrder(NOT_FOUND, False, True)}, 201, NOT_FOUND),  # it was answered 202 before
        ({"stored": StoredOrder(PAID, False, False), "settle": raising(KeyError("not asked"))}, 201, PAID),
    ],
)
def test_the_answer_says_how_the_order_is(steps, status, order):
    reply = place(**steps)
    assert (reply.status, reply.body) == (status, order)
    assert reply.headers["Location"] == f"/orders/{PENDING.id}"
    assert ("Retry-After" in reply.headers) == (status == 202)


@pytest.mark.parametrize(
    "steps",
    [
        {"settle": raising(NoAccount())},
        {"stored": StoredOrder(NOT_FOUND, False, False)},
        {"settle": raising(Unavailable()), "promise": lambda order: (NOT_FOUND, False)},
    ],
)
def test_no_such_account_is_404_unless_it_was_promised(steps):
    with pytest.raises(Problem) as caught:
        place(**steps)
    assert caught.value.view.status == 404


@pytest.mark.parametrize(
    "steps, error",
    [
        ({"settle": raising(KeyError("a defect"))}, KeyError),
        ({"settle": raising(Unavailable()), "promise": raising(Unavailable("the database went away"))}, Unavailable),
    ],
)
def test_a_defect_is_seen_as_one_and_a_promise_that_is_not_written_down_is_not_given(steps, error):
    with pytest.raises(error):
        place(**steps)


@pytest.mark.parametrize(
    "outcome, result",
    [
        ("accepted", OrderStatus.PAID),
        ("insufficient_funds", OrderStatus.REJECTED),
        ("operation_mismatch", OrderStatus.REJECTED),
        ("refused", OrderStatus.REJECTED),
        ("busy", AccountBusy),
        ("account_not_found", NoAccount),
        ("from_the_future", CallFailed),
        (None, CallFailed),
    ],
)
def test_an_outcome_ends_the_order_or_leaves_it_pending(outcome, result):
    order = read_outcome(PENDING, outcome)
    assert isinstance(order, result) if isinstance(result, type) else order.status == result


def test_once_a_round_has_waited_for_an_account_in_vain_nobody_waits_for_it():
    service: Any = OrdersService()
    service.busy, asked = Busy(), []
    service._settle_all = lambda orders, wait: asked.append(orders) or [AccountBusy()] * len(orders)
    other = PENDING.model_copy(update={"user_id": uuid4()})
    for order in (PENDING, PENDING, other):
        [result] = OrdersService._settle_busy.work(service, [order])
        assert isinstance(result, AccountBusy)
    assert asked == [[PENDING], [other]]


@pytest.mark.parametrize("error, asked", [(NoAccount(), 3), (RpcFailed("a defect"), 3), (RpcUnavailable("silent"), 1)])
def test_recovery_asks_for_each_user_until_it_meets_an_outage(error, asked):
    service: Any = OrdersService()
    service._settle_together, refused = SimpleNamespace(many=lambda orders: [NoAccount()] * len(orders)), []
    service._refuse = lambda order: refused.append(order) or raising(error)()
    results = service._settle_due([PENDING] * 3)
    assert len(refused) == asked
    assert results[0] is error and all(isinstance(result, Unavailable) for result in results)
