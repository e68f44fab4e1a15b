"""The table of who may what in docs/security.md; `python -m tests.docs.rules` writes it anew from the routes."""

import re

from services.kit.web.auth.rules import Needs, Owner
from services.kit.web.entrypoint import Route
from services.ops.openapi import routes
from services.shop import DEFAULT_STYLE, STYLES
from tests.docs.idl import DOCS

PAGE = DOCS / "security.md"
BEGIN, END = "<!-- the rules: written by `python -m tests.docs.rules` -->", "<!-- end of the rules -->"
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


def shown() -> str:
    """Return the table that stands in the page."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    PAGE.write_text(f"{before}{begin}\n\n{table()}\n\n{end}{after}")


if __name__ == "__main__":
    main()
