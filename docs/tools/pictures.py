"""For mkdocs: each picture is a link to itself, and on a phone as wide as it was drawn, to be scrolled sideways."""

import re
from pathlib import Path
from typing import Any

PICTURE = re.compile(r'<p>(<img alt="[^"]*" src="([^"]+)")\s*/?></p>')
VIEW_BOX = re.compile(r'<svg[^>]*viewBox="\S+ \S+ (\d+)')


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Return the page with every picture that is a paragraph by itself as a link."""
    folder = Path(page.file.abs_src_path).parent

    def linked(match: re.Match[str]) -> str:
        return f'<p class="picture"><a href="{match[2]}">{match[1]} width="{width(folder / match[2])}" /></a></p>'

    return PICTURE.sub(linked, html)


def width(picture: Path) -> int:
    """Return how wide a picture was drawn, in pixels."""
    if picture.suffix == ".svg":
        drawn = VIEW_BOX.search(picture.read_text())
        assert drawn, f"{picture} has no viewBox"
        return int(drawn[1])
    return int.from_bytes(picture.read_bytes()[16:20], "big")  # the first field of a PNG's header
