"""Who sends a request."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

ADMIN = "admin"  # the scope that may do everything, for everybody


@dataclass(frozen=True)
class Caller:
    """The sender of a request, as the token says, which is good until `ends`, in seconds since 1970.

    `subject` is its name with the provider, which may be that of a program.
    """

    user_id: UUID | None  # None: no user, but a program, which owns nothing
    scopes: frozenset[str]
    ends: float = float("inf")
    subject: str | None = None  # None: there is no token

    @property
    def sees_all(self) -> bool:
        return ADMIN in self.scopes

    def has(self, scope: str) -> bool:
        return self.sees_all or scope in self.scopes

    def owns(self, user_id: UUID | None) -> bool:
        """Return whether what belongs to this user, or to nobody, is the caller's to see and to change."""
        return self.sees_all or (user_id is not None and user_id == self.user_id)

    def while_good(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Return what a stream sends until the token ends; the client comes back with another one."""
        for block in blocks:
            if time.time() > self.ends:
                return
            yield block


#: The sender of each request if nobody is asked for a token.
ANYBODY = Caller(None, frozenset({ADMIN}))
