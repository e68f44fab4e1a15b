"""The lines of code that the lessons are about, as they are in this checkout."""

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]

#: For each lesson, files and what stands in them: a function, class or constant.
OF = {
    "lost-answer": (
        ("services/orders/service.py", "create_order"),
        ("services/billing/store.py", "move"),
        ("services/orders/service.py", "recover"),
    ),
    "letter-twice": (
        ("services/notifications/store.py", "ADD_LETTERS"),
        ("services/notifications/models.py", "Letter"),
    ),
    "same-key": (
        ("services/kit/db/idempotency.py", "Claim"),
        ("services/orders/service.py", "create_order"),
    ),
    "broker-away": (
        ("services/kit/outbox/relay.py", "_publish_due"),
        ("services/kit/outbox/table.py", "StatementWithEvents"),
    ),
    "without": (("services/local/sabotage.py", "sabotage"), ("services/ops/audit.py", "_wrong")),
}


def snippets(lesson: str) -> list[dict[str, Any]]:
    """Return the pieces of code of a lesson, each with its file, its name and its first line."""
    return [_snippet(file, name) for file, name in OF[lesson]]


def _snippet(file: str, name: str) -> dict[str, Any]:
    text = (ROOT / file).read_text()
    [node] = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt) and name in _names(node)]
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
    return {
        "file": file,
        "name": name,
        "first": first,
        "text": "\n".join(text.splitlines()[first - 1 : node.end_lineno]),
    }


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    return [one.id for one in getattr(node, "targets", []) if isinstance(one, ast.Name)]
