"""What the pages say of the code, the settings, the commands and the folders is so."""

import argparse
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.sdk import environment_variables

from services.contracts import EVENTS
from services.kit.tracing import SAMPLERS
from services.ops.cli import parser
from services.orders.store import END
from services.shop import INTERNAL, SERVICES, SHOP, STYLES, Style, service_class
from tests.docs.idl import DOCS, OPENAPI, ROOT, load
from tests.docs.lines import lines_of, pages
from tests.faults.points import Point, all_points

ARCHITECTURE, CONTRIBUTING = ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"
#: A changelog tells of what is no more, too.
PRESENT = [page for page in pages() if page.name != "CHANGELOG.md"]
#: What is named though it is nowhere: events that might be added, an option of nginx, what commands make.
MIGHT_BE = {"payment_refunded", "stock_refused", "stock_reserved", "non_idempotent"}
MADE = {
    "bench/peers/fastapi/.venv",
    "bench/peers/node/node_modules",
    "postman/report.html",
    "postman/node_modules",
    "docs/lint/node_modules",
    "tests/clients/node_modules",
    "tests/page/node_modules",
}
SOURCES = (".py", ".yaml", ".yml", ".cfg", ".toml", ".sh", ".json", ".mmd", ".pml", ".lua", ".tpl", ".conf")


def rows(page: Path, header: str) -> list[list[str]]:
    """The cells of the table in `page` whose header begins with `header`."""
    lines = page.read_text().splitlines()
    [start] = [number for number, line in enumerate(lines) if line.startswith(f"| {header}")]
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def code_in(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


@cache
def words_of_the_project() -> set[str]:
    """Every word in the sources, and the names of the files."""
    files = [
        file
        for folder in ("services", "tests", "bench", "helm", "model", "postman", "docs", "docker", ".ci")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in SOURCES and "node_modules" not in file.parts and ".venv" not in file.parts
    ]
    files += [ROOT / name for name in ("Makefile", "config.yaml", "setup.cfg", "compose.yaml", "pyproject.toml")]
    text = "\n".join(file.read_text() for file in files if file != Path(__file__))
    return set(re.findall(r"[\w-]+", text)) | {part for file in files for part in (file.name, file.stem)}


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_the_code_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    names = [one for one in code_in(text) if re.fullmatch(r"[A-Za-z]*[\w.]*(_\w|[a-z][A-Z])[\w.]*(\(\))?", one)]
    parts = {part for name in names for part in name.removesuffix("()").split(".") if part}
    known = words_of_the_project() | set(vars(environment_variables)) | set(SAMPLERS)
    metrics = {part for part in parts if part.startswith("nameko_hw_")}  # which have a test of their own
    assert {
        part for part in parts if part not in known and not part.endswith("_the_event")
    } - metrics - MIGHT_BE == set()


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    text = page.read_text()
    [subcommands] = [one for one in parser()._actions if isinstance(one, argparse._SubParsersAction)]
    assert set(re.findall(r"(?:`|bin/|\$ )nameko-hw ([a-z][\w-]*)", text)) <= set(subcommands.choices)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`|\$ |\w=\S+ )make ([a-z][\w-]*)", text, re.M)) <= targets


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_and_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*_S\b", text)) <= set(settings())
    for file in re.findall(r"`((?:services|tests|docs|bench|helm|postman|model|docker)/[\w/.-]+)`", text):
        assert (ROOT / file).exists() or file in MADE, file
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert list((ROOT / "tests").rglob(name)), name


def settings() -> dict[str, Any]:
    """The defaults of config.yaml."""
    text = re.sub(r"(?:!raw_env_var )?\$\{\w+:((?:[^{}]|\{[^}]*\})*)\}", r"\1", (ROOT / "config.yaml").read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_defaults_are_those_of_the_configuration() -> None:
    told = {code_in(row[0])[0]: row[1].strip("`") for row in rows(DOCS / "configuration.md", "variable")}
    defaults = dict(re.findall(r"\$\{(\w+):((?:[^{}]|\{[^}]*\})*)\}", (ROOT / "config.yaml").read_text()))
    compared = {name: default for name, default in told.items() if not default.startswith("a private")}
    assert len(compared) > 10
    assert compared == {name: defaults.get(name) for name in compared}


def test_metrics_that_are_named_exist() -> None:
    prefix = SHOP.name.replace("-", "_")
    source = (ROOT / "services/kit/metrics.py").read_text()
    for page in PRESENT:
        for name in re.findall(rf"`{prefix}_(\w+)`", page.read_text()):
            assert f'"{name}"' in source, name


def test_the_table_of_the_api_has_every_route() -> None:
    told = {
        (method, re.sub(r"\{\w+\}", "{}", path))
        for row in rows(DOCS / "api.md", "request")
        for method, path in re.findall(r"`(GET|POST) (/[\w/{}]+)", row[0])
    }
    served = {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path))
        for path, methods in load(OPENAPI["clients"])["paths"].items()
        for method in methods
    }
    assert told == {route for route in served if not re.match(r"/(health|metrics|docs|openapi|$)", route[1])}


def test_the_table_of_tests_has_every_folder() -> None:
    told = {code_in(row[0])[0] for row in rows(CONTRIBUTING, "folder")}
    assert told == {f"tests/{path.parent.name}" for path in (ROOT / "tests").glob("*/__init__.py")}


def test_the_plan_of_the_house_is_that_of_the_folders() -> None:
    plan = CONTRIBUTING.read_text().partition("\nservices/\n")[2].partition("```")[0]
    told = {word.rstrip("/") for line in re.findall(r"^  (\S.*?)(?:   |$)", plan, re.M) for word in line.split()}
    services = {path.name for path in (ROOT / "services").iterdir() if path.suffix != ".pyc"}
    assert told == services - {"__init__.py", "__pycache__"}
    kit = {path.stem for path in (ROOT / "services/kit").iterdir()} - {"__init__", "__pycache__", "README"}
    words = set(re.findall(r"\w+", plan))
    assert kit <= words, "the kit has more than CONTRIBUTING says"


def test_the_condition_for_a_final_status_is_that_of_the_statement() -> None:
    quoted = "not in ('paid', 'rejected')"
    assert f"orders.status {quoted}" in END.prepare
    for page in (ARCHITECTURE, CONTRIBUTING, DOCS / "broker.md"):
        assert quoted in page.read_text()
        assert "status = 'pending'" not in page.read_text()


def test_the_version_is_one() -> None:
    chart = yaml.safe_load((ROOT / "helm/Chart.yaml").read_text())["appVersion"]
    for page in PRESENT:
        assert set(re.findall(r"nameko-hw:(\d[\w.]*)", page.read_text())) <= {chart}, page


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_said_to_be_in_a_file_is_there(page: Path) -> None:
    for name, file in re.findall(r"`([\w.]+)`\s+in\s+`(services/[\w/]+\.py)`", page.read_text()):
        lines_of(ROOT / file, name)


POINTS = sorted({point for style in STYLES.values() for point in all_points(style)}, key=str)


def crash_rows() -> list[tuple[set[str], set[str], set[str]]]:
    """The services, kinds and functions of each row of the crash table."""
    found = []
    for cell, *_ in rows(ARCHITECTURE, "crash point"):
        services, _, what = cell.partition(": ")
        kinds = {
            kind for kind in ("commit", "statement", "publish", "call", "acknowledge") if kind in what.partition("`")[0]
        }
        found.append((set(SERVICES) if services == "all" else set(services.split(", ")), kinds, set(code_in(what))))
    return found


def is_in(point: Point, row: tuple[set[str], set[str], set[str]]) -> bool:
    services, kinds, functions = row
    where = "." + point.name.rpartition(":")[2].partition("#")[0]
    return point.service in services and point.kind in kinds and any(where.endswith(f".{one}") for one in functions)


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_every_crash_point_has_one_row(point: Point) -> None:
    assert len([row for row in crash_rows() if is_in(point, row)]) == 1, "say in ARCHITECTURE.md what is on disk here"


@pytest.mark.parametrize("row", crash_rows(), ids=lambda row: " ".join(sorted(row[2])))
def test_every_row_is_a_crash_point(row: tuple[set[str], set[str], set[str]]) -> None:
    services, kinds, functions = row
    points = [point for point in POINTS if is_in(point, row)]
    assert {point.kind for point in points} == kinds
    for function in functions:
        its = [point for point in points if is_in(point, (services, kinds, {function}))]
        assert its, function


@pytest.mark.parametrize("style", STYLES.values(), ids=lambda style: style.name)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_says_what_it_serves(service: str, style: Style) -> None:
    text = str(__import__(f"services.{service}", fromlist=["x"]).__doc__)
    told = dict(re.findall(r"^(HTTP|http|broker|events)\s+(.*(?:\n {4,}.*)*)", text, re.M))
    rpcs, events, routes = set(), set(), set()
    for name in dir(service_class(service, style)):
        for entrypoint in getattr(getattr(service_class(service, style), name), "nameko_entrypoints", ()):
            kinds = {one.__name__ for one in type(entrypoint).__mro__}
            rpcs |= {name} if "Rpc" in kinds else set()
            events |= {entrypoint.event.TYPE} if hasattr(entrypoint, "event") else set()
            if "HttpRequestHandler" in kinds and not entrypoint.url.startswith(INTERNAL):
                routes |= {entrypoint.method}
    served = set(re.findall(r"\w+", told[style.name].partition("serves ")[2]))
    assert rpcs == served & (rpcs | set(vars(service_class(service, STYLES["broker"]))))
    heard = set(re.findall(r"\w+", told[style.name].partition("hears ")[2].partition("; tells")[0]))
    assert events == heard & {event.TYPE for event in EVENTS}
    assert routes == set(re.findall(r"\w+", told["HTTP"])) & {"GET", "POST"}


def test_the_figures_of_the_bench_are_those_of_its_results() -> None:
    leading = " | clients | orders/s | ours / theirs"
    measured = rows(ROOT / "bench/results/results.md", leading)
    assert len(measured) > 2
    assert rows(ROOT / "bench/README.md", leading) == measured


def test_the_openapi_is_named_as_it_is() -> None:
    assert json.loads((DOCS / "openapi.json").read_text())["openapi"].startswith("3.1")
    assert "OpenAPI 3.1" in (DOCS / "broker.md").read_text()
