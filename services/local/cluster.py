"""A broker of several nodes: private RabbitMQ nodes that form one cluster, each in a folder of its own."""

import os
import secrets
from pathlib import Path
from typing import Self

from services.kit.hosts import NODE_SEPARATOR
from services.local.net import accepts
from services.local.rabbitmq import Epmd, RabbitMQ

COOKIE = ".erlang.cookie"  # by which nodes know that they belong together; Erlang looks for it in HOME

#: With the names of all nodes. A node that does not see most of them pauses, rather than to go on with a truth of its
#: own. One that is silent counts as lost after 10 s, not 60. The log of quorum queues is kept small.
CLUSTERED = """\
cluster_formation.peer_discovery_backend = classic_config
cluster_partition_handling = pause_minority
net_ticktime = 10
raft.wal_max_size_bytes = 33554432
"""


class Node(RabbitMQ):
    """One of a Cluster, whose folder has the cookie."""

    def start(self) -> None:
        """Start the node again. It may come up only when others do, so nobody waits for it here."""
        self.begin_to_start()

    @property
    def is_up(self) -> bool:
        """Whether it runs and listens. A node that does not see most of the others does not listen."""
        return self.running and accepts(self.port)

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"HOME": str(self.folder.parent)}


class Cluster:
    """The nodes, which are in the folders `folder`/1 and so on. Each of them keeps what most of them have."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = Path(folder).absolute()
        self.epmd = Epmd()
        names = [f"nameko-hw-{number}@localhost" for number in range(1, size + 1)]
        config = CLUSTERED + "".join(
            f"cluster_formation.classic_config.nodes.{number} = {name}\n" for number, name in enumerate(names, start=1)
        )
        self.nodes = [
            Node(self.folder / str(number), node=name, epmd=self.epmd, more_config=config)
            for number, name in enumerate(names, start=1)
        ]

    @property
    def uri(self) -> str:
        """The AMQP URIs of all nodes, as the services take them."""
        return NODE_SEPARATOR.join(node.uri for node in self.nodes)

    def start(self) -> None:
        """Start all nodes at once, and return when all can be used."""
        self._write_cookie()
        try:
            for node in self.nodes:
                node.begin_to_start()
            for node in self.nodes:
                node.wait_until_up()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all nodes at once, then their epmd; do nothing when none runs."""
        for node in self.nodes:
            if node.running:
                os.kill(node.pid, node.stop_signal)
        for node in self.nodes:
            node.stop()
        self.epmd.stop()

    def _write_cookie(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / COOKIE
        if not file.exists():
            file.touch(0o600)
            file.write_text(secrets.token_hex(16))
            file.chmod(0o400)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
