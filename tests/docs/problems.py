"""The table of the types of problems in docs/api.md; `python -m tests.docs.problems` writes it anew from the code."""

from bench.written import Written
from services.kit.web.catalogue import COMMON
from services.problems import MEANINGS
from tests.docs.idl import DOCS

TABLE = Written(
    DOCS / "api.md", "<!-- the problems: written by `python -m tests.docs.problems` -->", "<!-- end of the problems -->"
)


def table() -> str:
    """Return the table of all types that a client may meet, by their status; those of the local page at the end."""
    meanings = sorted(
        {**COMMON, **MEANINGS}.items(),
        key=lambda one: (one[1].text.startswith("The page of the local modes"), one[1].status, one[0]),
    )
    rows = [f"| `{name}` | {meaning.status} | {meaning.text} |" for name, meaning in meanings]
    return "\n".join(["| type | status | what it means |", "|---|---|---|", *rows])


if __name__ == "__main__":
    TABLE.write(table())
