"""The auditor's metrics say what the last audit found, and how old that is."""

import time
from collections.abc import Iterator

import pytest

from services.local.net import HOST, free_port, wait_for
from services.local.stack import Stack
from tests.auditor import Auditor, money_from_nowhere
from tests.commands import nameko_hw

SEEN_S = 20


@pytest.fixture
def auditor(stack: Stack) -> Iterator[Auditor]:
    running = Auditor(stack)
    yield running
    running.kill()


def test_a_violation_shows_until_it_is_mended(stack: Stack, auditor: Auditor):
    wait_for(lambda: auditor.violations(0), SEEN_S, "the first verdict")
    first = auditor.shows("audit_finished_timestamp_seconds")
    assert time.time() - SEEN_S < first < time.time()
    with money_from_nowhere(stack):
        wait_for(lambda: auditor.violations(1), SEEN_S, "the violation")
    wait_for(lambda: auditor.violations(0), SEEN_S, "the violation to be gone")
    assert auditor.shows("audit_finished_timestamp_seconds") > first
    assert auditor.stop() == 0
    said = auditor.said()
    assert "clean: no violations" in said and any(line.startswith("VIOLATION  account") for line in said)


def test_without_a_database_there_is_no_verdict_and_no_end(stack: Stack):
    nobody = f"postgresql+psycopg2://postgres@{HOST}:{free_port()}/orders"
    auditor = Auditor(stack, ORDERS_DATABASE_URL=nobody)
    try:
        started = wait_for(lambda: auditor.shows("audit_finished_timestamp_seconds"), SEEN_S, "the auditor")
        said = wait_for(lambda: lines if len(lines := auditor.said()) > 2 else None, SEEN_S, "three tries")
        assert all(line.startswith("no verdict: (psycopg2.OperationalError)") for line in said), said
        assert auditor.shows("audit_violations") is None
        assert auditor.shows("audit_finished_timestamp_seconds") == started
    finally:
        code = auditor.stop()
    assert code == 0


def test_an_address_that_is_taken_is_named_in_one_line(stack: Stack, monkeypatch: pytest.MonkeyPatch):
    address = f"{HOST}:{stack.ports['users'][0]}"
    monkeypatch.setenv("WEB_SERVER_ADDRESS", address)
    done = nameko_hw(stack, "audit", "--every", "60")
    assert (done.returncode, done.stderr) == (1, f"nameko-hw: WEB_SERVER_ADDRESS: {address}: Address already in use\n")
