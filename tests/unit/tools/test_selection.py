"""What `make check` leaves out is what starts a server, found without a list."""

from contextlib import contextmanager

import pytest

from services.local.postgres import Postgres
from services.local.stack import ROOT
from tests import conftest
from tests.chart import test_compose
from tests.docs import test_lint
from tests.faults import proxied, test_audit, test_random_faults
from tests.integration import test_migrations
from tests.selection import starts_server


def names_a_server() -> None:
    Postgres(ROOT)


def calls_it_in_a_lambda() -> None:
    (lambda: names_a_server())()


@contextmanager
def calls_it_behind_a_decorator():
    yield calls_it_in_a_lambda()


class Method:
    def one(self) -> None:
        calls_it_behind_a_decorator()


class Heir(Method):
    pass


@pytest.mark.parametrize(
    "what",
    [
        names_a_server,
        calls_it_in_a_lambda,
        calls_it_behind_a_decorator,
        Heir,
        proxied.ProxiedStack,
        conftest.Embedded,
        test_compose.nginx,
        test_lint.lint,
        test_random_faults.test_random_faults_under_load_lose_and_double_nothing,
    ],
)
def test_what_starts_a_server_is_seen(what: object):
    assert starts_server(what, set())


def annotated(_: Postgres) -> None:
    """Name a server only where nothing is called."""


@pytest.mark.parametrize("what", [annotated, print, test_audit.order, test_migrations.Postgres.url])
def test_what_starts_none_is_not(what: object):
    assert not starts_server(what, set())
