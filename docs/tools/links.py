"""For mkdocs: links out of docs/ into the project, `](../...)`, made to work from build/site/ as well."""

import re
from typing import Any

LINK = re.compile(r"\[((?:`[^`\n]+`|[^\]\n])+)\]\(\.\./([\w./#-]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with those links as HTML, which mkdocs leaves as they are; docs/ itself it checks."""
    return LINK.sub(r'<a href="../../\2">\1</a>', markdown)
