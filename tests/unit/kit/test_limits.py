"""How much a client may take: requests by a simulated clock, and which client it is behind which proxies."""

import json
from collections.abc import Callable
from typing import Any

import eventlet
import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request, Response

from services.kit.config import check
from services.kit.web.auth.caller import ANYBODY, Caller
from services.kit.web.auth.refusals import invalid_token
from services.kit.web.limits.addresses import Proxies
from services.kit.web.limits.limits import POLICY, STATE, Limits
from services.kit.web.limits.rate import REMEMBERED, Quota, Rate
from services.kit.web.problems import Problem
from tests.clock import simulated_clock
from tests.unit.kit.test_config import config

OURS = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"]
CLIENT, OTHER = "203.0.113.5", "198.51.100.9"


# --- the address ---


@pytest.mark.parametrize(
    "peer, forwarded_for, client",
    [
        (CLIENT, None, CLIENT),
        (CLIENT, OTHER, CLIENT),
        (CLIENT, "10.0.0.1", CLIENT),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", CLIENT, CLIENT),
        ("10.0.0.1", f"{OTHER}, {CLIENT}", CLIENT),
        ("10.0.0.1", f"{OTHER}, {CLIENT},10.2.3.4 , 192.0.2.7", CLIENT),
        ("10.0.0.1", f"10.0.0.9, {CLIENT}", CLIENT),
        ("10.0.0.1", "10.0.0.9, 10.0.0.2", "10.0.0.9"),
        ("192.0.2.8", OTHER, "192.0.2.8"),
        ("fd00::1", CLIENT, CLIENT),
        ("::ffff:10.0.0.1", f"::ffff:{CLIENT}", CLIENT),
        ("10.0.0.1", f"{CLIENT}:443", CLIENT),
        ("10.0.0.1", "[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::/64"),
        ("10.0.0.1", "[2001:db8:1:2::7]", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", None, "2001:db8:1:2::/64"),
        ("fe80::1%eth0", None, "fe80::/64"),
    ],
)
def test_the_client_is_the_last_on_the_way_that_is_no_proxy_of_ours(peer: str, forwarded_for: str | None, client: str):
    assert Proxies(OURS).client(peer, forwarded_for) == client


@pytest.mark.parametrize(
    "nonsense", ["", " ", ",", "unknown", "_hidden", "1.2.3", "1.2.3.4.5", "[::1", "::1]:x", "٣", "9" * 70_000]
)
def test_what_is_no_address_is_the_proxys_own_request(nonsense: str):
    assert Proxies(OURS).client("10.0.0.1", f"{OTHER}, {nonsense}, 10.0.0.2") == "10.0.0.2"
    assert Proxies(OURS).client("10.0.0.1", nonsense) == "10.0.0.1"


def test_nobody_is_believed_by_default():
    assert Proxies([]).client("127.0.0.1", CLIENT) == "127.0.0.1"


# --- the rate ---


def test_a_client_has_its_quota_at_once_and_then_evenly():
    with simulated_clock() as clock:
        rate = Rate(6, 60, clock)
        assert [rate.spend("a") for _ in range(6)] == [Quota(False, 5 - one, 10 + 10 * one) for one in range(6)]
        assert rate.spend("a") == Quota(True, 0, 10)
        eventlet.sleep(9.5)
        assert rate.spend("a") == Quota(True, 0, 1)
        eventlet.sleep(0.5)
        assert rate.spend("a") == Quota(False, 0, 60), "refused requests have cost nothing"
        assert rate.spend("a").is_exceeded
        eventlet.sleep(60)
        assert rate.spend("a").left == 5


def test_a_client_that_waits_as_told_is_let_in():
    with simulated_clock() as clock:
        rate = Rate(7, 3, clock)  # which does not divide
        for _ in range(100):
            if (quota := rate.spend("a")).is_exceeded:
                eventlet.sleep(quota.wait_s)
                assert not rate.spend("a").is_exceeded


def test_no_window_has_more_than_twice_the_quota():
    with simulated_clock() as clock:
        rate, let_in = Rate(10, 10, clock), []
        for _ in range(1000):
            if not rate.spend("a").is_exceeded:
                let_in.append(clock())
            eventlet.sleep(0.1)
        assert max(sum(start <= one < start + 10 for one in let_in) for start in let_in) <= 20
        assert len(let_in) == pytest.approx(110, abs=2)


def test_clients_have_quotas_of_their_own():
    rate = Rate(1, 60)
    assert not rate.spend("a").is_exceeded and not rate.spend("b").is_exceeded
    assert rate.spend("a").is_exceeded and rate.spend("b").is_exceeded


def test_many_clients_do_not_fill_the_memory_and_one_that_goes_on_is_not_forgotten():
    rate = Rate(1, 60)
    rate.spend("greedy")
    for number in range(3 * REMEMBERED):
        rate.spend(number)
        if number % 1000 == 0:
            assert rate.spend("greedy").is_exceeded
    assert len(rate) == REMEMBERED


# --- both ---


def limits(**settings: Any) -> Limits:
    return Limits(check(config() | {"RATE_LIMIT": 2} | settings))


def request(peer: str = CLIENT, **headers: str) -> Request:
    environ = EnvironBuilder(headers={name.replace("_", "-"): value for name, value in headers.items()}).get_environ()
    return Request(environ | {"REMOTE_ADDR": peer})


def refused() -> Caller:
    raise invalid_token("is malformed")


def status(by: Limits, sent: Request, admit: Callable[[], Caller] = lambda: ANYBODY) -> int:
    try:
        by.let_in(sent, admit)
    except Problem as problem:
        return problem.view.status
    return 200


def test_without_a_limit_nothing_is_counted_and_nothing_is_said():
    by, sent, answer = limits(RATE_LIMIT=0), request(), Response()
    assert {status(by, sent) for _ in range(100)} == {200}
    by.show(sent, answer)
    assert STATE not in answer.headers and POLICY not in answer.headers


def test_an_answer_says_what_is_left_and_a_refusal_when_to_come_back():
    by = limits(RATE_LIMIT_WINDOW_S=10)
    for state in ('"default";r=1;t=5', '"default";r=0;t=10'):
        sent, answer = request(), Response()
        assert status(by, sent) == 200
        by.show(sent, answer)
        assert (answer.headers[STATE], answer.headers[POLICY]) == (state, '"default";q=2;w=10')
    with pytest.raises(Problem) as caught:
        by.let_in(sent := request(), lambda: ANYBODY)
    answer = caught.value.response("unit")
    by.show(sent, answer)
    assert answer.status_code == 429 and json.loads(answer.get_data())["type"] == "urn:unit:problem:too-many-requests"
    assert answer.headers["Retry-After"] == "5" and answer.headers[STATE] == '"default";r=0;t=5'


def test_a_spoofed_address_gives_nobody_another_quota():
    by = limits()
    told = [status(by, request(X_Forwarded_For=f"192.0.2.{number}")) for number in range(4)]
    assert told == [200, 200, 429, 429]


def test_behind_a_proxy_of_ours_each_client_has_its_own():
    by = limits(TRUSTED_PROXIES=OURS)
    proxied = [request("10.0.0.1", X_Forwarded_For=f"{number}.{number}.{number}.1, {CLIENT}") for number in range(1, 4)]
    assert [status(by, one) for one in proxied] == [200, 200, 429]
    assert status(by, request("10.0.0.1", X_Forwarded_For=OTHER)) == 200


def test_a_token_is_counted_by_its_subject_wherever_it_comes_from():
    by, ada, bob = limits(), *(Caller(None, frozenset(), subject=one) for one in ("ada", "bob"))
    assert [status(by, request(f"192.0.2.{one}"), lambda: ada) for one in range(3)] == [200, 200, 429]
    assert status(by, request("192.0.2.0"), lambda: bob) == 200


def test_a_guess_is_counted_by_its_address_and_harms_no_good_token():
    by, ada = limits(), Caller(None, frozenset(), subject="ada")
    assert [status(by, request(), refused) for _ in range(3)] == [401, 401, 429]
    assert status(by, request(), lambda: ada) == 200
    assert status(by, request(OTHER), refused) == 401


def test_connections_of_an_address_are_counted_and_those_of_a_proxy_are_not():
    by = limits(MAX_CONNECTIONS_PER_ADDRESS=20, MAX_CALLS=10, TRUSTED_PROXIES=OURS)
    assert [by.connect("2001:db8::" + format(one, "x")) for one in range(21)] == [True] * 20 + [False]
    assert all(by.connect("10.0.0.1") for _ in range(100)) and by.connect(CLIENT)
    by.disconnect("10.0.0.1")
    by.disconnect("2001:db8::1")
    assert by.connect("2001:db8::ffff") and not by.connect("2001:db8::1")
    for one in range(20):
        by.disconnect("2001:db8::" + format(one, "x"))
    by.disconnect(CLIENT)
    assert by._connections == {}, "nothing is kept of who is gone"
