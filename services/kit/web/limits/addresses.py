"""From which address a request comes, also through proxies.

X-Forwarded-For is read, and `Forwarded` (RFC 7239) is not: a proxy that writes the one passes on the other as it has
come from the client.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

FORWARDED_FOR = "X-Forwarded-For"
LONGEST = 64  # characters of an address with a zone and a port
WITH_PORT = re.compile(r"\[([^][]*)](?::\d+)?|([\d.]+):\d+")  # as some proxies write it

Address = IPv4Address | IPv6Address


class Proxies:
    """The proxies that are believed when they say for whom they ask, by their networks."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ip_network(one) for one in networks]

    def __contains__(self, text: str) -> bool:
        address = parsed(text)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded_for: str | None) -> str:
        """Return who sends a request that `peer` has brought: the last one on its way that is no proxy of ours.

        What stands before it was written by the client, and may be anything. If a proxy of ours has written no address,
        the request is that of the proxy.
        """
        client = peer
        hops = forwarded_for.split(",") if forwarded_for and peer in self else []
        while hops and client in self and parsed(hops[-1]):
            client = hops.pop()
        return named(client)


@lru_cache
def parsed(text: str) -> Address | None:
    """Return an address, with or without a port; None for anything else."""
    text = text.strip(" \t")
    if len(text) > LONGEST:
        return None
    if match := WITH_PORT.fullmatch(text):
        text = match[1] or match[2] or ""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache
def named(text: str) -> str:
    """Return the name of a client by its address. In IPv6 that is its network: a client has all addresses in it."""
    address = parsed(text)
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address or text)
