"""The crash points: every commit, publish and acknowledgement, found in the code itself.

A point is a `with ...session() as session:`, whose end commits, or a `with ...autocommit() as connection:`, whose
statement does; a statement that is run in a loop; a call of `publish`, `send` or `wait_for_confirms` of a publisher, of
`call` of a client, or of `ack_message`. A service, in one of the styles, has the points of the functions and classes
that can be reached by the names in its code, wherever below `services` they are. So a point that is added to the code
is tested without a change here, and a place that nobody reaches is an error.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeGuard

from services.local.stack import ROOT
from services.shop import DEFAULT_STYLE, SERVICES, STYLES, Style, module_of

#: A statement in a loop is a transaction of its own, so that a process can die between two of them.
STATEMENT = ("run",)
PUBLISH = ("publish", "send", "wait_for_confirms")
CALL = ("call",)
ACKNOWLEDGE = ("ack_message",)
SESSIONS = ("session", "get_session", "autocommit")
CONTAINER = "services.kit.container"
COMMANDS = "services.ops.cli"  # a point that only they reach is no crash point: their operator sees them die
AT_IMPORT = ""  # the name of what a module does when it is imported, beside its definitions


class Name(NamedTuple):
    """A definition at the top of a module."""

    module: str
    name: str


class Lines(NamedTuple):
    """Lines of a file, including the last."""

    first: int
    last: int


@dataclass(frozen=True)
class Point:
    """A crash point in one of the services that run it."""

    service: str
    file: str  # below the root of the project
    lines: Lines  # where it is entered and left
    work: Lines  # where the work is done whose reply may be lost
    kind: str  # commit, statement, publish, call or acknowledge
    name: str  # file, method and number

    def __str__(self) -> str:
        return f"{self.service}: {self.kind} in {self.name}"


class Module:
    """What a file defines, and what it imports."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        for statement in ast.parse(file.read_text()).body:
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    self.imports[alias.asname or alias.name] = (statement.module or "", alias.name)
            for name in _defined(statement):
                self.definitions.setdefault(name, []).append(statement)


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))
    elif not isinstance(statement, ast.Import | ast.ImportFrom):
        yield AT_IMPORT


class Code:
    """All the modules below `services`."""

    def __init__(self) -> None:
        self.modules = {
            ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): Module(file)
            for file in (ROOT / "services").rglob("*.py")
        }

    def reached_from(self, *modules: str) -> set[Name]:
        """Return the definitions that `modules` mention, those that these mention, and so on."""
        reached: set[Name] = set()
        waiting = [Name(module, name) for module in modules for name in self.modules[module].definitions]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                definitions = self.modules[name.module].definitions
                if AT_IMPORT in definitions:
                    waiting.append(Name(name.module, AT_IMPORT))
                for statement in definitions[name.name]:
                    waiting += self._mentioned(name.module, statement)
        return reached

    def _mentioned(self, module: str, statement: ast.stmt) -> Iterator[Name]:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                yield from self._resolved(module, node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                of, name = self.modules[module].imports.get(node.value.id, ("", ""))
                yield from self._resolved(f"{of}.{name}", node.attr)

    def _resolved(self, module: str, name: str) -> Iterator[Name]:
        """Return where a name is defined: in this module, or in the one that it is imported from."""
        if module in self.modules:
            if name in self.modules[module].definitions:
                yield Name(module, name)
            elif name in self.modules[module].imports:
                yield from self._resolved(*self.modules[module].imports[name])


def all_points(style: Style = STYLES[DEFAULT_STYLE]) -> list[Point]:
    """Return every crash point of every service in a style.

    AssertionError for a place that no service reaches in any style, and no command.
    """
    code = Code()
    reached = {
        (service, one): code.reached_from(module_of(service, one), CONTAINER)
        for service in SERVICES
        for one in STYLES.values()
    }
    by_commands = code.reached_from(COMMANDS)
    found = []
    for name, place in sorted(_places(code)):
        assert any(name in names for names in (*reached.values(), by_commands)), f"nobody runs {place}"
        found += [Point(service, *place) for service in SERVICES if name in reached[service, style]]
    return found


def _places(code: Code) -> Iterator[tuple[Name, tuple[str, Lines, Lines, str, str]]]:
    """Return all that looks like a point, with the definition that it is in."""
    for module, its in code.modules.items():
        path = str(its.file.relative_to(ROOT))
        for name, statements in its.definitions.items():
            for function, where in _functions(statements):
                for number, (kind, lines, work) in enumerate(_in_function(function), start=1):
                    yield Name(module, name), (path, lines, work, kind, f"{path}:{where}#{number}")


def _functions(statements: Iterable[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    for statement in statements:
        if isinstance(statement, ast.FunctionDef):
            yield statement, statement.name
        elif isinstance(statement, ast.ClassDef):
            for method in statement.body:
                yield method, f"{statement.name}.{getattr(method, 'name', method.lineno)}"
        else:
            yield statement, str(statement.lineno)


def _in_function(function: ast.stmt) -> Iterator[tuple[str, Lines, Lines]]:
    in_loops = {
        id(node) for loop in ast.walk(function) if isinstance(loop, ast.While | ast.For) for node in ast.walk(loop)
    }
    for node in ast.walk(function):
        if isinstance(node, ast.With) and any(_calls(item.context_expr, SESSIONS) for item in node.items):
            lines = Lines(node.lineno, node.lineno)  # where `__enter__` and `__exit__` are called
            has_commit = not any(_calls(item.context_expr, ("autocommit",)) for item in node.items)
            yield "commit", lines, lines if has_commit else Lines(node.body[0].lineno, node.end_lineno or node.lineno)
        elif id(node) in in_loops and _calls(node, STATEMENT) and "connection" in ast.unparse(node):
            yield "statement", *[Lines(node.lineno, node.end_lineno or node.lineno)] * 2
        elif _calls(node, PUBLISH) and "publisher" in ast.unparse(node.func):
            yield "publish", *[Lines(node.lineno, node.end_lineno or node.lineno)] * 2
        elif _calls(node, CALL) and "client" in ast.unparse(node.func):
            yield "call", *[Lines(node.lineno, node.end_lineno or node.lineno)] * 2
        elif _calls(node, ACKNOWLEDGE):
            yield "acknowledge", *[Lines(node.lineno, node.end_lineno or node.lineno)] * 2


def _calls(node: ast.AST, names: tuple[str, ...]) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names
