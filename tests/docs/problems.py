"""The table of the types of problems in docs/api.md; `python -m tests.docs.problems` writes it anew from the code."""

from services.kit.web.catalogue import COMMON
from services.problems import MEANINGS
from tests.docs.idl import DOCS

PAGE = DOCS / "api.md"
BEGIN, END = "<!-- the problems: written by `python -m tests.docs.problems` -->", "<!-- end of the problems -->"


def table() -> str:
    """Return the table of all types that a client may meet, by their status; those of the local page at the end."""
    meanings = sorted(
        {**COMMON, **MEANINGS}.items(),
        key=lambda one: (one[1].text.startswith("The page of the local modes"), one[1].status, one[0]),
    )
    rows = [f"| `{name}` | {meaning.status} | {meaning.text} |" for name, meaning in meanings]
    return "\n".join(["| type | status | what it means |", "|---|---|---|", *rows])


def shown() -> str:
    """Return the table that stands in the page."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    PAGE.write_text(f"{before}{begin}\n\n{table()}\n\n{end}{after}")


if __name__ == "__main__":
    main()
