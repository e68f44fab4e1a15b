"""What one client may take of a process: so many requests in a time, and so many connections."""

import time
from collections import Counter
from collections.abc import Callable

from werkzeug.wrappers import Request, Response

from services.kit.config import Settings
from services.kit.web.auth.caller import Caller
from services.kit.web.limits.addresses import FORWARDED_FOR, Proxies, named
from services.kit.web.limits.rate import Quota, Rate
from services.kit.web.problems import Problem, too_many

POLICY, STATE = "RateLimit-Policy", "RateLimit"
QUOTA = "kit.quota"  # in the WSGI environment: what the client has left


class Limits:
    """Counts what clients take. A client is the subject of its token, or else its address.

    RateLimit and RateLimit-Policy are those of draft-ietf-httpapi-ratelimit-headers-11.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        most, window_s = settings.RATE_LIMIT, settings.RATE_LIMIT_WINDOW_S
        self._rate = Rate(most, window_s, clock) if most else None
        self._policy = f'"default";q={most};w={window_s}'
        self._most_connections = settings.MAX_CONNECTIONS_PER_ADDRESS
        self._connections: Counter[str] = Counter()
        self._proxies = Proxies(settings.TRUSTED_PROXIES)

    def let_in(self, request: Request, admit: Callable[[], Caller]) -> Caller:
        """Return whom `admit` lets in, unless the client has sent too many requests; then raise a Problem.

        A good token is counted by itself. So nobody is refused for what others send from the same address, and whoever
        guesses tokens runs out of guesses.
        """
        if self._rate is None:
            return admit()
        try:
            caller = admit()
        except Problem:
            self._spend(self._rate, request, None)
            raise
        self._spend(self._rate, request, caller.subject)
        return caller

    def _spend(self, rate: Rate, request: Request, subject: str | None) -> None:
        quota = rate.spend(("address", self._address(request)) if subject is None else ("subject", subject))
        request.environ[QUOTA] = quota
        if quota.is_exceeded:
            raise too_many("The client has sent too many requests.", quota.wait_s)

    def _address(self, request: Request) -> str:
        return self._proxies.client(request.remote_addr or "", request.headers.get(FORWARDED_FOR))

    def show(self, request: Request, response: Response) -> None:
        """Tell the client what it has left, if its requests are counted."""
        quota: Quota | None = request.environ.get(QUOTA)
        if quota is not None:
            response.headers[POLICY] = self._policy
            response.headers[STATE] = f'"default";r={quota.left};t={quota.wait_s}'

    def connect(self, peer: str) -> bool:
        """Count a connection, and return whether its client may have it. Those of proxies are their clients'."""
        if self._most_connections and peer not in self._proxies:
            client = named(peer)
            if self._connections[client] >= self._most_connections:
                return False
            self._connections[client] += 1
        return True

    def disconnect(self, peer: str) -> None:
        """Count no more a connection that `connect` has let in."""
        if self._connections:
            client = named(peer)
            self._connections[client] -= 1
            if self._connections[client] <= 0:
                del self._connections[client]
