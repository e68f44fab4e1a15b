"""The types of problem that are this shop's own, besides those of the kit (`services/kit/web/catalogue.py`)."""

from collections.abc import Mapping

from services.kit.web.catalogue import Meaning
from services.kit.web.problems import Problem

MEANINGS: Mapping[str, Meaning] = {
    "user-not-found": Meaning(404, "There is no user with this id."),
    "account-not-found": Meaning(404, "There is no account of this user: there is no such user, or not yet."),
    "order-not-found": Meaning(404, "There is no order with this id."),
    "operation-not-found": Meaning(
        404, "This account has no operation with this id. One that was refused moved nothing, and is none."
    ),
    "letter-not-found": Meaning(404, "There is no letter with this id."),
    "email-taken": Meaning(409, "Another user has this e-mail address, in whatever upper and lower case."),
    "insufficient-funds": Meaning(402, "The account holds less than the amount; nothing was moved."),
    "account-busy": Meaning(
        503,
        "The account is busy, and nothing was moved. Send it again, with the same Idempotency-Key if there is one.",
    ),
    "wrong-token": Meaning(403, "The page of the local modes: open it by the URL that was printed at the start."),
    "wrong-host": Meaning(403, "The page of the local modes: it is for a browser on the same machine."),
    "wrong-origin": Meaning(403, "The page of the local modes: another site may not use it."),
    "nothing-to-break": Meaning(404, "The page of the local modes: there are no processes to break here."),
    "no-such-part": Meaning(
        404, "The page of the local modes: the stack has no such part, or there is no such action."
    ),
    "no-such-safeguard": Meaning(404, "The page of the local modes: no safeguard of this name can be taken out."),
}


def not_found(what: str, replayed: bool = False) -> Problem:
    """Return the problem that there is no such `user`, `account`, `operation`, `order` or `letter`."""
    sentence = "There is no account of this user." if what == "account" else f"There is no such {what}."
    return Problem(404, f"{what}-not-found", sentence, replayed=replayed)
