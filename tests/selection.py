"""Chooses tests. What a style shares with the default one is tried there; with `--styles` (`make test-styles`) in each.
What takes long and is about rare events, such as an upgrade or a failover, is tried with `--long` (`make test-long`),
or when it is named.

Marks what needs a server, so that `make check` can leave it out: `-m "not server"`.

Nobody keeps a list. A test needs a server if it names one of the classes that start one, or a program that `make test`
installs, or if a fixture of it does, or a function of the tests that these call. What a process of its own would start
cannot be seen that way, so whole folders are marked too.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from services.local.postgres import Postgres
from services.local.rabbitmq import RabbitMQ
from services.local.stack import Stack
from services.shop import DEFAULT_STYLE, STYLES

TESTS = Path(__file__).parent
SERVERS = (Postgres, RabbitMQ, Stack)
PROGRAMS = {"npm", "npx", "nginx", "pgbouncer", "promtool", "services.ops.cli"}  # the last is ours, and starts servers
ALWAYS = ("acceptance", "clients", "cluster", "model")
NEVER = ("unit",)

#: The styles as parameters of what is tested in the default one, and in the others with `--styles`.
EACH_STYLE = [
    pytest.param(style, id=style.name, marks=() if style.name == DEFAULT_STYLE else pytest.mark.styles)
    for style in STYLES.values()
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "styles: repeats in another style what is tested in the default one; see --styles"
    )
    config.addinivalue_line(
        "markers", "server: needs PostgreSQL, RabbitMQ, nginx, PgBouncer, npm, SPIN, Prometheus or a cluster"
    )
    config.addinivalue_line("markers", "long: takes half a minute or more, and is about a rare event; see --long")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--styles", action="store_true", help="also run what is tested in the default style in the others")

    parser.addoption(
        "--long", action="store_true", help="run what takes long and is left out without this, and only that"
    )


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    styles, long = config.getoption("--styles"), config.getoption("--long")
    are_named = any(".py" in one for one in config.args)  # whoever names a file or a test wants it
    left_out = [
        item
        for item in items
        if (item.get_closest_marker("styles") and not styles)
        or (bool(item.get_closest_marker("long")) != long and not are_named)
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        if isinstance(item, pytest.Function) and needs_server(item):
            item.add_marker("server")


def needs_server(test: pytest.Function) -> bool:
    """Say whether a test, or a fixture that it uses, starts a server."""
    folder = test.path.relative_to(TESTS).parts[0] if test.path.is_relative_to(TESTS) else ""
    if folder in ALWAYS + NEVER:
        return folder in ALWAYS
    known = test._fixtureinfo.name2fixturedefs
    fixtures = [one.func for name in test.fixturenames for one in known.get(name, ())]
    return any(starts_server(one, set()) for one in (test.function, *fixtures))


def starts_server(what: Any, seen: set[Any]) -> bool:
    """Say whether a function or class of the tests names a server, or another one that does."""
    if what in SERVERS:
        return True
    if what in seen or not what.__module__.startswith("tests."):
        return False
    seen.add(what)
    return any(
        (code.co_consts and not PROGRAMS.isdisjoint(one for one in code.co_consts if isinstance(one, str)))
        or any(starts_server(one, seen) for one in named_by(code, function.__globals__))
        for function in functions_of(what)
        for code in codes_of(function.__code__)
    ) or any(starts_server(base, seen) for base in getattr(what, "__bases__", ()))


def functions_of(what: Any) -> list[Any]:
    """Return a function, or the methods of a class, without what decorators have put around."""
    found = vars(what).values() if inspect.isclass(what) else [what]
    return [one for one in map(inspect.unwrap, found) if inspect.isfunction(one)]


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function and of the lambdas and functions in it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from codes_of(one)


def named_by(code: CodeType, names: dict[str, Any]) -> Iterator[Any]:
    """Yield the functions and classes that code names."""
    for name in code.co_names:
        one = names.get(name)
        if inspect.isclass(one) or inspect.isfunction(one):
            yield one
