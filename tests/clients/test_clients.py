"""Clients that generators make from docs/openapi.json are complete and typed, and play the scenario."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.local.stack import Stack
from services.scenario import Scenario
from tests.docs.idl import OPENAPI, load
from tests.docs.test_described import operations

HERE = Path(__file__).parent
MADE = "nameko_hw_client"  # what tests/clients/python.yaml calls the Python client
NODE_MODULES = HERE / "node_modules"
RUN_S = 120


def run(*command: object, folder: Path, **variables: str) -> str:
    """Run a command in `folder`, and return what it prints; it must not fail."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def python_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the generated Python package. Whatever the generator would leave out is an error."""
    folder = tmp_path_factory.mktemp("python")
    program = Path(sys.executable).parent / "openapi-python-client"
    given = ["--path", OPENAPI["clients"], "--output-path", folder / MADE, "--config", HERE / "python.yaml"]
    said = run(program, "generate", *given, "--meta", "none", "--fail-on-warning", folder=folder)
    assert "arning" not in said
    (folder / MADE / "py.typed").touch()
    return folder


@pytest.fixture(scope="module")
def typescript_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the generated TypeScript client, and of what plays with it."""
    assert NODE_MODULES.exists(), "`make test` installs the generator, with npm"
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "node_modules").symlink_to(NODE_MODULES)
    for name in ("package.json", "tsconfig.json", "play.ts"):
        shutil.copy(HERE / name, folder)
    program = NODE_MODULES / "openapi-typescript" / "bin" / "cli.js"
    run("node", program, OPENAPI["clients"], "--output", "api.d.ts", folder=folder)
    return folder


def titles(stack: Stack) -> list[str]:
    return [title for title, _ in Scenario(stack.url).steps()]


def test_no_operation_and_no_model_is_left_out(python_client: Path, typescript_client: Path):
    document = load(OPENAPI["clients"])
    ids = {operation["operationId"] for _, operation in operations(document)}
    assert {one.stem for one in (python_client / MADE / "api").glob("*/[!_]*.py")} == ids
    models = set(document["components"]["schemas"])
    exported = (python_client / MADE / "models" / "__init__.py").read_text()
    assert set(re.findall(r"import (\w+)", exported)) == models
    declared = (typescript_client / "api.d.ts").read_text()
    assert ids <= set(re.findall(r"^    (\w+): \{", declared, re.MULTILINE))
    assert models <= set(re.findall(r"^        (\w+): [{\"]", declared, re.MULTILINE))


def test_the_client_in_python_is_typed(python_client: Path):
    cache = python_client / "mypy"
    options = ["--strict", "--config-file", os.devnull, "--cache-dir", cache, "--python-executable", sys.executable]
    run(sys.executable, "-m", "mypy", *options, HERE / "play.py", folder=python_client, MYPYPATH=str(python_client))


def test_the_client_in_python_plays_the_scenario(python_client: Path, stack: Stack):
    said = run(sys.executable, HERE / "play.py", stack.url, folder=python_client, PYTHONPATH=str(python_client))
    assert said.splitlines() == titles(stack)


def test_the_client_in_typescript_is_typed_and_plays_the_scenario(typescript_client: Path, stack: Stack):
    run("node", NODE_MODULES / "typescript" / "bin" / "tsc", folder=typescript_client)
    said = run("node", "play.js", stack.url, folder=typescript_client)
    assert said.splitlines() == titles(stack)
