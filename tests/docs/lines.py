"""Links to lines of the code, and quotations of it, in the Markdown files; `python -m tests.docs.lines` renews them.

A link to lines names what stands there:

    [`create_user`](services/users/service.py#L30-L45)      a function, class, method or constant
    [`insert into outbox`](services/orders/store.py#L62)    or a text that stands in one place of the file only
    [`with told as … from finished`](...)                   or two, from the line of the first to that of the second

A quotation is a fenced block after the comment `<!-- quoted from services/orders/service.py -->`. Each run of lines,
up to a blank line or one of `...`, stands in the file as it is, further in or out perhaps, and in the same order.
"""

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\[`(?P<name>[^`\n]+)`\]\((?P<path>[\w./-]+)#L(?P<first>\d+)(?:-L(?P<last>\d+))?\)")
ANY_LINES = re.compile(r"\]\([^)\s]+#L\d+[^)]*\)")
QUOTE = re.compile(r"<!-- quoted from (?P<path>[\w./-]+)[^\n]*-->\n+```\w*\n(?P<block>.*?)\n```", re.S)


class Lines(NamedTuple):
    """Some lines of a file, from 1, the last included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"L{self.first}" if self.first == self.last else f"L{self.first}-L{self.last}"


class Broken(Exception):
    """What a page says of the code is not so; the message says where and why."""


def pages() -> list[Path]:
    """Return the Markdown files of the project, not those of packages."""
    found: list[Path] = []
    for folder, below, files in os.walk(ROOT):
        below[:] = [one for one in below if one not in ("node_modules", "build", "output") and not one.startswith(".")]
        found += [Path(folder, file) for file in files if file.endswith(".md")]
    return sorted(found)


def lines_of(file: Path, name: str) -> Lines:
    """Return the lines of `file` that hold what is called `name`, or the text `name`; Broken unless it is one place."""
    if file.suffix == ".py" and re.fullmatch(r"[\w.]+", name):
        definitions = list(_definitions(ast.parse(file.read_text()), name))
        if len(definitions) != 1:
            raise Broken(f"{name} is defined {len(definitions)} times; name it with its class, or a text with a blank")
        return definitions[0]
    begin, _, end = name.partition(" … ")
    text = file.read_text().splitlines()
    first = _only_line(text, begin)
    last = first + _first_line(text[first - 1 :], end) - 1 if end else first
    return Lines(first, last)


def _definitions(tree: ast.AST, name: str, inside: str = "") -> Iterator[Lines]:
    """What is called `name`, or whose name with its class ends so."""
    for node in ast.iter_child_nodes(tree):
        for one in _names(node):
            if f".{inside}{one}".endswith(f".{name}"):
                assert isinstance(node, ast.stmt) and node.end_lineno
                decorators = getattr(node, "decorator_list", [])
                yield Lines(min([node.lineno, *(each.lineno for each in decorators)]), node.end_lineno)
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node, name, f"{inside}{node.name}.")


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [one.id for one in node.targets if isinstance(one, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def _only_line(text: list[str], part: str) -> int:
    found = [number for number, line in enumerate(text, start=1) if part in line]
    if len(found) != 1:
        raise Broken(f"`{part}` stands in {len(found)} lines, and should in one")
    return found[0]


def _first_line(text: list[str], part: str) -> int:
    for number, line in enumerate(text, start=1):
        if part in line:
            return number
    raise Broken(f"`{part}` does not follow")


def renewed(page: Path) -> str:
    """Return the text of `page` with the numbers of the lines as they should be; Broken for a link that cannot be."""

    def link(match: re.Match[str]) -> str:
        file = page.parent / match["path"]
        if not file.is_file():
            raise Broken(f"{page.relative_to(ROOT)}: there is no {match['path']}")
        try:
            return f"[`{match['name']}`]({match['path']}#{lines_of(file, match['name'])})"
        except Broken as error:
            raise Broken(f"{page.relative_to(ROOT)}, {match['path']}: {error}") from None

    text = page.read_text()
    if nameless := [one for one in ANY_LINES.findall(text) if not any(one in each[0] for each in LINK.finditer(text))]:
        raise Broken(f"{page.relative_to(ROOT)}: a link to lines has to name in `code` what stands there: {nameless}")
    return LINK.sub(link, text)


def misquoted(page: Path) -> list[str]:
    """Return those runs of lines that `page` quotes from a file in which they do not stand, or not in this order."""
    return [run for quote in QUOTE.finditer(page.read_text()) for run in _missing(ROOT / quote["path"], quote["block"])]


def _missing(file: Path, block: str) -> Iterator[str]:
    source = file.read_text().splitlines()
    for run in re.split(r"^\s*(?:\.\.\.)?\s*$\n?", block, flags=re.M):
        wanted = _dedented(run.splitlines())
        if not wanted:
            continue
        for at in range(len(source) - len(wanted) + 1):
            if _dedented(source[at : at + len(wanted)]) == wanted:
                source = source[at + len(wanted) :]
                break
        else:
            yield f"{file.relative_to(ROOT)}:\n{run}"


def _dedented(lines: list[str]) -> list[str]:
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[margin:].rstrip() for line in lines]


def main() -> None:
    """Write the right numbers of lines into all pages, and name what needs a person."""
    troubles: list[str] = []
    for page in pages():
        try:
            if (text := renewed(page)) != page.read_text():
                page.write_text(text)
                print(f"{page.relative_to(ROOT)}: renewed")
        except Broken as error:
            troubles.append(str(error))
        troubles += [f"{page.relative_to(ROOT)} quotes what is not in {one}" for one in misquoted(page)]
    sys.exit("\n".join(troubles))


if __name__ == "__main__":
    main()
