"""The nodes of the broker that AMQP_URI names: connecting to one that answers, and which one is tried first.

All connections of a process go to the same node while it is there; the first one is drawn, so that processes spread
over the nodes. A node that fails is tried last from then on.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from amqp.exceptions import AMQPError
from eventlet import Timeout
from kombu import Connection
from kombu.exceptions import KombuError

from services.kit.amqp import tls
from services.kit.amqp.sockets import spare_system_calls
from services.kit.hosts import NODE_SEPARATOR, shares
from services.kit.tls import NO_FILES, BrokerFiles, is_encrypted

BROKER_DOWN = (AMQPError, KombuError, OSError)
T = TypeVar("T")
_random = random.SystemRandom()


class NodeSilent(TimeoutError):
    """A node did not answer in time. An OSError, so that the AMQP library closes what it had opened."""


class Nodes:
    """The nodes, the one to try first in front; `files` are for those whose URI is `amqps://`."""

    def __init__(self, amqp_uri: str, files: BrokerFiles = NO_FILES) -> None:
        self._files = files
        self._uris = deque(amqp_uri.split(NODE_SEPARATOR))
        self._uris.rotate(_random.randrange(len(self._uris)))

    @property
    def are_several(self) -> bool:
        return len(self._uris) > 1

    def connect(self, timeout_s: float, heartbeat_s: float, use: Callable[[Any], T]) -> T:
        """Connect to the first node on whose connection `use` succeeds, and return what it returns.

        Each node gets its share of `timeout_s` seconds. Raise the error of the last one if all fail.
        """
        failure: Exception = NodeSilent("there is no node")
        for uri, share_s in shares(list(self._uris), timeout_s):
            ssl = self._files.options(uri) if is_encrypted(uri) else None
            connection = Connection(uri, ssl=ssl, connect_timeout=share_s, heartbeat=math.ceil(heartbeat_s))
            connection.node = uri
            try:
                with Timeout(share_s, NodeSilent(f"{connection.hostname} did not answer in {share_s:.1f} s")):
                    connection.ensure_connection(max_retries=0)
                    spare_system_calls(connection)
                    made = use(connection)
            except BaseException as error:
                self.leave(connection)
                if not isinstance(error, BROKER_DOWN):  # a deadline of the caller
                    raise
                if not isinstance(failure, tls.NotTrusted):  # which does not go away by itself
                    failure = tls.explained(error, uri)
            else:
                while self._uris[0] != uri:
                    self._uris.rotate(-1)
                return made
        raise failure

    def leave(self, connection: Any) -> None:
        """Close a connection of `connect` that has failed, without asking its node, which is tried last from now on."""
        connection.collect()
        if self._uris[0] == connection.node:
            self._uris.rotate(-1)


def nodes_of(config: Mapping[str, Any]) -> Nodes:
    """Return the nodes that a configuration names, which a process knows once."""
    return _known(config["AMQP_URI"], BrokerFiles.of(config))


_known = cache(Nodes)
