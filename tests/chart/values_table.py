"""The table of values in helm/README.md, made of the comments in values.yaml: `python -m tests.chart.values_table`."""

import json
import re
from typing import Any

import yaml

from services.local.stack import ROOT

CHART = ROOT / "helm"
HEADER = "| Key | Type | Default | Description |\n|-----|------|---------|-------------|\n"
TYPES = {str: "string", int: "int", bool: "bool", list: "list", dict: "object"}


def rows() -> list[tuple[str, Any, str]]:
    """Each value that a comment `# -- ` describes: its path, its default and what the comment says."""
    text = (CHART / "values.yaml").read_text()
    values, comment = yaml.safe_load(text), ""
    found: list[tuple[str, Any, str]] = []
    path: list[str] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"( *)# -- (.*)", line):
            comment = match[2]
        elif match := re.match(r"( *)([A-Za-z]\w*):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if comment:
                found.append((".".join(path), at(values, path), comment))
                comment = ""
    return found


def at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values[name]
    return values


def table() -> str:
    return HEADER + "".join(
        f"| {path} | {TYPES[type(default)]} | `{json.dumps(default)}` | {text} |\n" for path, default, text in rows()
    )


def readme() -> str:
    """What helm/README.md should be."""
    before = (CHART / "README.md").read_text().partition(HEADER)[0]
    return before + table()


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme())
