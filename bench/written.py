"""The part of a page that code writes, between two comments."""

from pathlib import Path
from typing import NamedTuple


class Written(NamedTuple):
    """A part of `page`; the rest of it is written by hand."""

    page: Path
    begin: str
    end: str

    def text(self) -> str:
        """Return what stands there now."""
        return self.page.read_text().partition(self.begin)[2].partition(self.end)[0].strip()

    def write(self, text: str) -> None:
        """Replace it."""
        before, begin, rest = self.page.read_text().partition(self.begin)
        _, end, after = rest.partition(self.end)
        self.page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
