"""The keys of tokens while their provider is slow, away, changes them, or sends nonsense."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import eventlet
import pytest
import urllib3.util.connection
from eventlet import Timeout
from eventlet.green import socket

from services.kit.config import BadConfiguration
from services.kit.errors import Unavailable
from services.kit.web.auth import keys as module
from services.kit.web.auth.keys import Keys, keys_of, read_set
from services.kit.web.auth.verifier import Verifier
from services.kit.web.problems import Problem
from tests.tokens import Provider
from tests.unit.kit.peer import Behaviour, Peer, answer, cut, silent, trickle
from tests.unit.kit.test_tokens import settings

ONE, TWO = Provider("one"), Provider("two")
DEADLINE_S = 1.0
GOOD = answer(ONE.jwks())
ALLOWED = ["RS256", "ES256", "EdDSA"]


@pytest.fixture(autouse=True)
def green(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give urllib3 eventlet's sockets, which it has in a service, where the whole process is patched."""
    monkeypatch.setattr(urllib3.util.connection, "socket", socket)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Published:
    """Keys that a provider publishes by HTTP."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.clock = Clock()
        self.settings = settings(AUTH_JWKS=peer.url, RPC_TIMEOUT_S=DEADLINE_S)
        self.keys = keys_of(self.settings)
        self.keys._clock = self.clock
        self.verifier = Verifier(self.settings, self.keys)

    def takes(self, provider: Provider) -> bool:
        try:
            return bool(self.verifier.caller(provider.token()))
        except Problem as problem:
            assert problem.view.status == 401
            return False

    def later(self, seconds: float) -> None:
        self.clock.now += seconds


@pytest.fixture
def published() -> Iterator[Any]:
    """Publishes keys by a server that behaves as it is told."""
    peers: list[Peer] = []

    def publish(*behaviours: Behaviour) -> Published:
        peers.append(Peer(*behaviours))
        return Published(peers[-1])

    yield publish
    for peer in peers:
        peer.close()


def eventually(holds: Any) -> None:
    with Timeout(5, AssertionError("waited in vain")):
        while not holds():
            eventlet.sleep(0.01)


def test_keys_are_fetched_once_for_all_who_wait_for_them(published):
    provider = published(answer(ONE.jwks(), after_s=0.05))
    assert [one.wait() for one in [eventlet.spawn(provider.takes, ONE) for _ in range(20)]] == [True] * 20
    assert len(provider.peer.requests) == 1


@pytest.mark.parametrize(
    "behaviour",
    [
        silent,
        trickle,
        cut(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"),
        answer(b"", "503 Service Unavailable"),
        answer(b"", "302 Found", "Location: http://127.0.0.1:1/\r\n"),
        answer(b"<html>"),
        answer(b"[" * 9000),
        answer({"keys": [None]}),
        answer({"keys": []}),
        answer({"keys": [{"kty": "oct", "k": "AAAA", "kid": "one"}]}),
        answer({"keys": [{**Provider(algorithm="RS256", bits=1024).jwk}]}),
        answer({"keys": [{**ONE.jwk, "use": "enc"}]}),
        answer(json.dumps(ONE.jwks()).encode() + b" " * module.SET_LIMIT_BYTES),
    ],
)
def test_without_keys_nobody_is_let_in_and_nobody_waits_for_long(published, behaviour):
    provider = published(behaviour)
    started = time.monotonic()
    for _ in range(3):  # the second and third do not ask again so soon
        with pytest.raises(Unavailable):
            provider.takes(ONE)
    assert time.monotonic() - started < 2 * DEADLINE_S + 0.5
    assert len(provider.peer.requests) <= 1


def test_a_provider_that_is_away_when_we_start_is_asked_again(published):
    provider = published(answer(b"", "500 Oops"), GOOD)
    with pytest.raises(Unavailable):
        provider.takes(ONE)
    provider.later(2)
    assert provider.takes(ONE)


def test_keys_that_are_known_are_used_while_the_provider_is_away(published):
    provider = published(GOOD, silent)
    assert provider.takes(ONE)
    provider.later(module.REFRESH_S + 1)
    started = time.monotonic()
    assert provider.takes(ONE) and provider.takes(ONE)
    assert time.monotonic() - started < DEADLINE_S  # nobody waits for it
    provider.later(module.STALE_S)
    with pytest.raises(Unavailable):
        provider.takes(ONE)


def test_a_key_that_was_added_is_found_at_once(published):
    provider = published(GOOD, answer(ONE.jwks(TWO)))
    assert provider.takes(ONE)
    provider.later(module.UNKNOWN_S + 1)
    assert provider.takes(TWO) and provider.takes(ONE)


def test_names_of_keys_that_are_made_up_do_not_make_us_ask_each_time(published):
    provider = published(GOOD)
    assert provider.takes(ONE)
    provider.later(module.UNKNOWN_S + 1)
    assert not any(provider.takes(Provider(f"made-up-{number}")) for number in range(5))
    assert len(provider.peer.requests) == 2


def test_a_key_that_was_taken_away_is_no_longer_good_though_its_tokens_were_remembered(published):
    provider = published(GOOD, answer(TWO.jwks()))
    token = ONE.token()
    assert provider.verifier.caller(token)
    provider.later(module.REFRESH_S + 1)
    provider.verifier.caller(token)  # by the old keys, while the new ones are read
    eventually(lambda: "two" in provider.keys.current())
    with pytest.raises(Problem):
        provider.verifier.caller(token)


def test_the_same_keys_again_leave_tokens_remembered(published):
    provider = published(GOOD)
    token = ONE.token()
    caller = provider.verifier.caller(token)
    provider.later(module.REFRESH_S + 1)
    provider.verifier.caller(token)
    eventually(lambda: len(provider.peer.requests) == 2 and provider.keys._under_way is None)
    assert provider.verifier.caller(token) is caller


def test_the_private_half_of_a_key_is_not_used():
    private = json.loads(json.dumps({"keys": [{**ONE.jwk, "d": "AAAA"}]}))
    [key] = read_set(json.dumps(private).encode(), ALLOWED).values()
    assert not hasattr(key.key, "private_numbers")


def test_a_file_is_read_again(tmp_path: Path):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(ONE.jwks()))
    keys, clock = keys_of(settings(AUTH_JWKS=str(file))), Clock()
    keys._clock = clock
    assert set(keys.current()) == {"one"}
    file.write_text(json.dumps(TWO.jwks()))
    clock.now += module.REFRESH_S + 1
    eventually(lambda: set(keys.current()) == {"two"})


@pytest.mark.parametrize("text", [None, "", "{}", '{"keys": []}'])
def test_a_file_without_keys_stops_the_start(tmp_path: Path, text: str | None):
    file = tmp_path / "keys.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadConfiguration, match="^config.yaml: AUTH_JWKS: ") as caught:
        keys_of(settings(AUTH_JWKS=str(file)))
    assert "\n" not in str(caught.value)


def test_a_defect_of_ours_is_no_outage():
    def broken() -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Keys(broken).current()
