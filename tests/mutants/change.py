"""What a harmful change is."""

from typing import NamedTuple


class Change(NamedTuple):
    """In `file` of services/, `old`, which occurs there once, becomes `new`; `harm` is what breaks, and `tests` notice.

    `tests` are arguments of pytest below tests/, as narrow and quick as can be.
    """

    name: str
    harm: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
