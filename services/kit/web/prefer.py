"""The preference `wait` of a request (RFC 7240): for how many seconds the client would rather wait than ask again."""

import re

from werkzeug.http import parse_list_header, parse_options_header, unquote_header_value

PREFER, PREFERENCE_APPLIED = "Prefer", "Preference-Applied"
SECONDS = r"[0-9]{1,9}"


def preferred_wait_s(header: str | None) -> int | None:
    """Return the seconds of `Prefer: wait=N`; None without them, or if they are not understood.

    `header` has the values of all its lines, with commas between them. Only the first `wait` counts, whatever it says.
    """
    for item in parse_list_header(header) if header else ():
        preference, _ = parse_options_header(item)  # a wait has no parameters that mean anything
        name, _, value = preference.partition("=")
        if name.strip().lower() == "wait":
            seconds = unquote_header_value(value.strip())
            return int(seconds) if re.fullmatch(SECONDS, seconds) else None
    return None


def applied(wait_s: float) -> dict[str, str]:
    """Return the header that says that the preference was honoured, in whole seconds."""
    return {PREFERENCE_APPLIED: f"wait={int(wait_s)}"}
