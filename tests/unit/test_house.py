"""The layout of the house: who may import whom, and what is written in one place only."""

import ast
import json
import re
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from services.kit.web.auth.rules import Needs, Rule
from services.local.stack import ROOT
from services.ops.openapi import document, routes
from services.shop import SERVICES, STYLES

#: For each role in a service, the modules of the service itself that it may import.
MAY_IMPORT = {
    "domain": set(),
    "models": {"domain"},
    "store": {"models", "domain"},
    "service": {"store", "models", "domain"},
    "broker": {"service", "store", "models", "domain"},
    "http": {"service", "store", "models", "domain"},
    "events": {"service", "store", "models", "domain"},
    "__init__": set(),
}
MAY_USE_KIT = {"broker", "http", "events", "service", "store", "models"}
FOR_ALL = "services.kit.event"  # the base of what contracts.py declares
FRAMEWORKS = {"nameko", "eventlet", "kombu", "sqlalchemy", "werkzeug", "psycopg2"}


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("role", MAY_IMPORT)
def test_imports_run_one_way(service, role):
    file = ROOT / "services" / service / f"{role}.py"
    allowed = {f"services.{service}.{other}" for other in MAY_IMPORT[role]}
    more = {"http": {"services.notices"}, "service": {"services.problems"}}.get(role, set())
    allowed |= {"services.contracts"} | more
    for name in imports(file):
        may_use_kit = role in MAY_USE_KIT and (name == "services.kit" or name.startswith("services.kit."))
        if name == f"services.{service}" or name.startswith(FOR_ALL) or may_use_kit:
            continue
        if name.startswith("services."):
            known = any(name == one or name.startswith(f"{one}.") for one in allowed)
            assert known or (name.startswith("services.kit.") and role in MAY_USE_KIT), f"{file} imports {name}"
        if role == "domain":
            assert name.partition(".")[0] not in FRAMEWORKS, f"{file} imports {name}"


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_rooms(service):
    files = {file.name for file in (ROOT / "services" / service).iterdir() if not file.name.startswith("__pycache__")}
    assert files == {*(f"{role}.py" for role in MAY_IMPORT), "migrations"}


def test_the_kit_imports_nothing_of_the_shop_and_does_not_know_its_name():
    for file in (ROOT / "services" / "kit").rglob("*.py"):
        ours = {name for name in imports(file) if name.startswith("services")}
        assert all(name == "services.kit" or name.startswith("services.kit.") for name in ours), (file, ours)
        assert not re.search(r"nameko.hw", file.read_text()), file


def test_contracts_and_services_import_no_service_but_themselves():
    for name in ("contracts", *SERVICES):
        place = ROOT / "services" / name
        for file in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
            for other in {*SERVICES, "ops", "local", "shop", "scenario"} - {name}:
                assert not any(one.startswith(f"services.{other}") for one in imports(file)), (file, other)


def test_only_the_outbox_publishes_events():
    for file in (ROOT / "services").rglob("*.py"):
        text = file.read_text()
        assert "EventDispatcher" not in text, file
        # asyncapi.py writes down what the exchanges are called
        assert "get_event_exchange" not in text or file.name in ("transport.py", "asyncapi.py", "queues.py"), file
        # sabotage.py shows what happens when somebody else does
        assert not re.search(r"insert into outbox\b(?!_)", text) or file.name in ("table.py", "sabotage.py"), file


def test_a_store_never_commits():
    for service in SERVICES:
        text = (ROOT / "services" / service / "store.py").read_text()
        assert "commit(" not in text and "rollback(" not in text and "begin(" not in text


def test_the_committed_openapi_is_that_of_the_code():
    committed = (ROOT / "docs" / "openapi.json").read_text()
    assert committed == document(), "write it anew with `make openapi`"
    validate(json.loads(committed))
    components = json.loads(committed)["components"]
    components.pop("securitySchemes")  # which are named, and not referred to
    there = {f"#/components/{kind}/{name}" for kind, named in components.items() for name in named}
    assert there == set(re.findall(r'"\$ref": "([^"]+)"', committed))


def test_what_services_call_is_for_services_and_nothing_that_clients_call_is_open():
    for style in STYLES.values():
        assert all(route.needs is Rule.SERVICES for _, route in routes(style, internal=True))
        assert all(isinstance(route.needs, Needs) for _, route in routes(style))


def test_no_statement_returns_whatever_columns_its_table_has():
    """A column more would make it fail in each process that has prepared it, so no migration could add one."""
    kept = [file for file in (ROOT / "services").rglob("*.py") if "ops" not in file.parts]
    assert [file for file in kept if re.search(r"returning (\w+\.)?\*", file.read_text())] == []
