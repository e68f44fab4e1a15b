"""The types of the arguments of the console command."""

from argparse import ArgumentTypeError
from datetime import UTC, datetime


def moment(text: str) -> datetime:
    """Parse a time of RFC 3339; it is in UTC where it names no offset."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a time: it should be like 2026-01-31T12:00:00Z") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def seconds(text: str) -> float:
    """Parse a number of seconds, from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 10**9:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def port_number(text: str) -> int:
    """Parse a port; 0 is any that is free."""
    if not text.isdigit() or int(text) > 65_535:
        raise ArgumentTypeError(f"{text!r} is not a port: it should be a number up to 65535")
    return int(text)


def odd_number(text: str) -> int:
    """Parse the number of nodes of a broker: of an even number, no more may be lost than of one less."""
    if text not in ("1", "3", "5"):
        raise ArgumentTypeError(f"{text!r} should be 1, 3 or 5")
    return int(text)
