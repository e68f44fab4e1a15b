"""Harm to what keeps one client from taking the part of others: deadlines, quotas, addresses."""

from tests.mutants.change import Change

SLOW = ("integration/test_slow_clients.py",)
LIMITS = ("unit/kit/test_limits.py",)
SERVED = ("integration/test_limits.py",)

CHANGES = [
    Change(
        "silence-is-kept",
        "clients that connect and say nothing hold all connections for a minute",
        "kit/web/protocol.py",
        "self._idle_s or self.server.socket_timeout",
        "self.server.keepalive",
        SLOW,
    ),
    Change(
        "each-sip-gains-time",
        "a client that reads a little now and then keeps its connection for as long as it likes",
        "kit/web/protocol.py",
        "with Timeout(max(0.0, until - time.monotonic()), TimeoutError(",
        "with Timeout(None, TimeoutError(",
        SLOW,
    ),
    Change(
        "endless-line",
        "a line without an end, in a body in chunks, fills the memory",
        "kit/web/protocol.py",
        "if len(line) == MAX_LINE:",
        "if False:",
        ("unit/kit/test_http.py",),
    ),
    Change(
        "first-hop-is-believed",
        "a client that says another address each time has as many quotas",
        "kit/web/limits/addresses.py",
        "while hops and client in self and",
        "while hops and",
        LIMITS,
    ),
    Change(
        "each-address-of-a-network",
        "a client with IPv6 has as many quotas as it likes",
        "kit/web/limits/addresses.py",
        "if isinstance(address, IPv6Address):",
        "if False:",
        LIMITS,
    ),
    Change(
        "clients-are-never-forgotten",
        "requests from many addresses fill the memory",
        "kit/web/limits/rate.py",
        "if len(self._unused_at) > REMEMBERED:",
        "if False:",
        LIMITS,
    ),
    Change(
        "guesses-cost-nothing",
        "whoever guesses tokens may go on for ever",
        "kit/web/limits/limits.py",
        "            self._spend(self._rate, request, None)\n            raise",
        "            raise",
        LIMITS,
    ),
    Change(
        "places-never-given-back",
        "after MAX_CONNECTIONS_PER_ADDRESS in all an address is not served any more",
        "kit/web/server.py",
        "            self.container.limits.disconnect(address[0])\n",
        "",
        SERVED,
    ),
    Change(
        "services-are-limited",
        "services that are busy refuse each other's calls",
        "kit/web/entrypoint.py",
        "return admit() if self.route.needs is Rule.SERVICES else",
        "return",
        SERVED,
    ),
]
