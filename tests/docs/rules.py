"""The table of who may what in docs/security.md; `python -m tests.docs.rules` writes it anew from the routes."""

import re

from bench.written import Written
from services.kit.web.auth.rules import Needs, Owner
from services.kit.web.entrypoint import Route
from services.ops.openapi import routes
from services.shop import DEFAULT_STYLE, STYLES
from tests.docs.idl import DOCS

TABLE = Written(
    DOCS / "security.md", "<!-- the rules: written by `python -m tests.docs.rules` -->", "<!-- end of the rules -->"
)
OTHERS = {
    None: "whoever has the scope",
    Owner.QUERY: "200, a list without them",
    Owner.ONLY: "200, a list without them",
}


def row(route: Route) -> str:
    assert isinstance(route.needs, Needs)
    path = re.sub(r"<uuid:(\w+)>", r"{\1}", route.path)
    missing = route.needs.missing
    others = f"404 `{missing().view.type}`" if missing else OTHERS[route.needs.owner]
    return f"| `{route.method} {path}` | `{route.needs.scope}` | {route.needs.owner or ''} | {others} |"


def table() -> str:
    """Return the table of all routes for clients."""
    rows = [row(route) for _, route in routes(STYLES[DEFAULT_STYLE])]
    head = ["| route | scope | whose it is | somebody else's |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    TABLE.write(table())
