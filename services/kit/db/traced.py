"""Spans of statements, for what is done inside another span: a timer that finds nothing to do makes none."""

import re
from typing import Any

from sqlalchemy import Engine, event

from services.kit.tracing import Kind, Tracer, is_recording, note_event

NAMED = re.compile(r"execute (\w+)|/\* (\w+) \*/")
VERB = re.compile(r"\s*(\w+)")
TABLE = re.compile(r"\b(?:from|into|update)\s+(\w+)", re.IGNORECASE)


def trace_statements(engine: Engine, tracer: Tracer) -> None:
    """Have `tracer` make a span of each statement, named by what it does: it shows neither text nor values."""
    namespace = engine.url.database or ""

    def before(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if not is_recording() or statement.startswith("prepare "):
            return
        name = summary(statement)
        attributes = {"db.system.name": "postgresql", "db.namespace": namespace, "db.query.summary": name}
        context.span = tracer.begin(name, Kind.CLIENT, attributes=attributes)

    def after(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if span := getattr(context, "span", None):
            span.end()

    def failed(context: Any) -> None:
        if span := getattr(context.execution_context, "span", None):
            tracer.fail(span, context.original_exception)
            span.end()

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    event.listen(engine, "handle_error", failed)
    event.listen(engine, "commit", lambda connection: note_event("commit"))


def summary(statement: str) -> str:
    """Return the name of a statement that has one, or the verb and the table of another one."""
    if named := NAMED.match(statement):
        return named[1] or named[2]
    verb, table = VERB.match(statement), TABLE.search(statement)
    return " ".join(([verb[1].upper()] if verb else []) + ([table[1]] if table else [])) or "statement"
