"""The crash points: every commit, publish and acknowledgement, found in the code itself.

A point is where the code stands: a `with ...session() as session:`, whose end commits, or a `with ...autocommit() as
connection:`, whose statement does; a call of `publish` and its kin, or of `ack_message`. What is added to the code is
added to this list, and no test needs to be told.
"""
import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.common.migrations import SERVICES
from services.local.stack import ROOT

#: Which services run a file of `common`: those that can die there.
RUN_BY = {
    "http.py": SERVICES, "web.py": SERVICES, "timers.py": ("users", "orders"), "relay.py": ("users", "orders"),
    "events.py": ("notifications",), "inbox.py": ("notifications",),
}
#: Within rpc.py the caller's side and the server's side run in different services.
RPC_SIDES = {"RpcProxy": ("users", "orders"), "RpcConsumer": ("billing",)}
PUBLISH = ("publish", "publish_lazily", "confirms")
ACKNOWLEDGE = "ack_message"
SESSIONS = ("session", "get_session", "autocommit")


@dataclass(frozen=True)
class Point:
    """A place in the code, `kind` and all, in one of the services that run it."""

    service: str
    file: str        # below the root of the project
    first: int       # the lines of the statement
    last: int
    kind: str        # commit, publish or acknowledge
    name: str        # file, method and number

    def __str__(self) -> str:
        return f"{self.service}: {self.kind} in {self.name}"


def all_points() -> list[Point]:
    """Every crash point of every service."""
    found = []
    for service in SERVICES:
        for file in (ROOT / "services" / service).glob("*.py"):
            found += list(_in_file(file, lambda _, service=service: (service,)))
    for file in (ROOT / "services" / "common").glob("*.py"):
        sides = RUN_BY.get(file.name, ())
        found += list(_in_file(file, lambda cls, sides=sides: RPC_SIDES.get(cls, sides)))
    return found


def _in_file(file: Path, run_by) -> Iterator[Point]:
    path = str(file.relative_to(ROOT))
    for cls in ast.walk(ast.parse(file.read_text())):
        if not isinstance(cls, ast.ClassDef):
            continue
        for method in cls.body:
            if not isinstance(method, ast.FunctionDef):
                continue
            for number, (kind, first, last) in enumerate(_in_method(method), start=1):
                for service in run_by(cls.name):
                    name = f"{path}:{cls.name}.{method.name}#{number}"
                    yield Point(service, path, first, last, kind, name)


def _in_method(method: ast.FunctionDef) -> Iterator[tuple[str, int, int]]:
    for node in ast.walk(method):
        if isinstance(node, ast.With) and any(_calls(item.context_expr, SESSIONS) for item in node.items):
            yield "commit", node.lineno, node.lineno
        elif _calls(node, PUBLISH) and "publisher" in ast.unparse(node.func):
            yield "publish", node.lineno, node.end_lineno or node.lineno
        elif _calls(node, (ACKNOWLEDGE,)):
            yield "acknowledge", node.lineno, node.end_lineno or node.lineno


def _calls(node: ast.AST, names: tuple[str, ...]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names
