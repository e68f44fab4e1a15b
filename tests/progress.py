"""Says how far a run of several processes is: a line for each file that begins, and one at least every ten seconds.

    [ 312/1416] tests/faults/test_draining.py
    tests/faults/test_draining.py sets up twins: The stack with two replicas of each service.
    [ 314/1416] tests/faults/test_draining.py::test_a_client_that_keeps_its_connection_is_told_to_close_it

A run of one process, and one with `-q` or `-v`, is shown by pytest alone.
"""

import sys
import time
from collections.abc import Generator
from typing import Any

import pytest

from tests.selection import starts_server

EVERY_S = 10


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(SetUps(config))
    elif config.getoption("numprocesses", None) and config.get_verbosity() == 0:
        config.pluginmanager.register(Progress(config))


class Progress:
    """In the process that hands the tests out: writes these lines in place of a dot for each test."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.begun = 0
        self.files: set[str] = set()
        self.shown_at = 0.0

    @pytest.hookimpl
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.begun += 1
        file = nodeid.partition("::")[0]
        if file not in self.files:
            self.files.add(file)
            self.show(file)
        elif time.monotonic() > self.shown_at + EVERY_S:
            self.show(nodeid)

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.show(f"FAILED in its {report.when}: {report.nodeid}")

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Any, Any]:
        """Take away the letter of each test, and with it the lines of dots."""
        category, _, word = yield
        return category, "", word

    def show(self, line: str) -> None:
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        total = str(reporter._session.testscollected)
        reporter.write_line(f"[{self.begun:>{len(total)}}/{total}] {line}")
        self.shown_at = time.monotonic()


class SetUps:
    """In a process that runs tests: says which servers it begins to start for more than one test."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        if fixturedef.scope != "function" and starts_server(fixturedef.func, set()):
            file = request._pyfuncitem.nodeid.partition("::")[0]
            what = (fixturedef.func.__doc__ or "").partition("\n")[0]
            capture = self.config.pluginmanager.getplugin("capturemanager")
            with capture.global_and_fixture_disabled():  # our standard error is that of the whole run
                sys.stderr.write(f"{file} sets up {fixturedef.argname}{what and f': {what}'}\n")
        return (yield)
