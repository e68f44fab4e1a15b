"""The stack with a PostgreSQL and a RabbitMQ that take nothing but TLS, from those whom they know."""

import os
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlencode

from services.kit.hosts import NODE_SEPARATOR
from services.local.needs import postgresql_programs, rabbitmq_server
from services.local.net import HOST, accepts, free_port, wait_for
from services.local.postgres import USER, Postgres
from services.local.rabbitmq import RabbitMQ
from services.local.stack import Stack
from tests.certificates import Authority, Certificate

HOST_NAME = "localhost"


class EncryptedPostgres(Postgres):
    """A server of the system's PostgreSQL, as that of our wheel speaks no TLS."""

    def __init__(self, folder: Path, authority: Authority, server: Certificate, client: Certificate) -> None:
        access = folder / "pg_hba.conf"
        settings = {
            "ssl": "on",
            "ssl_ca_file": str(authority.file),
            "ssl_cert_file": str(server.certificate),
            "ssl_key_file": str(server.key),
            "hba_file": str(access),
        }
        super().__init__(folder, settings=settings)
        folder.mkdir()
        access.write_text("hostssl all all all trust clientcert=verify-ca\n")
        self.options = {
            "sslmode": "verify-full",
            "sslrootcert": str(authority.file),
            "sslcert": str(client.certificate),
            "sslkey": str(client.key),
        }
        self.dead = free_port()

    def program(self, name: str) -> Path:
        found = postgresql_programs()
        assert found
        return found / name

    def url(self, database: str, **options: str) -> str:
        return f"postgresql+psycopg2://{USER}@{HOST_NAME}:{self.port}/{database}?{urlencode(self.options | options)}"

    def reload(self) -> None:
        """Have it read its certificates anew, for the next connections."""
        os.kill(self.pid, signal.SIGHUP)
        wait_for(lambda: "reloading configuration files" in self.log.read_text(), 5, "the server to have read them")

    def url_of_two(self, database: str) -> str:
        """The same with a host before it that is not there."""
        hosts = "".join(f"&host={HOST_NAME}:{port}" for port in (self.dead, self.port))
        return f"postgresql+psycopg2://{USER}@/{database}?{urlencode(self.options)}{hosts}"


class EncryptedRabbitMQ(RabbitMQ):
    """A node that listens for TLS only."""

    def __init__(self, folder: Path, authority: Authority, server: Certificate, client: Certificate) -> None:
        super().__init__(folder)
        self.more_config = f"""\
listeners.tcp = none
listeners.ssl.1 = {HOST}:{self.port}
ssl_options.cacertfile = {authority.file}
ssl_options.certfile = {server.certificate}
ssl_options.keyfile = {server.key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""
        self.files = {
            "AMQP_CA_FILE": str(authority.file),
            "AMQP_CERT_FILE": str(client.certificate),
            "AMQP_KEY_FILE": str(client.key),
        }
        self.dead = free_port()

    @property
    def uri(self) -> str:
        return f"amqps://guest:guest@{HOST_NAME}:{self.port}/"

    @property
    def uri_of_two(self) -> str:
        """The same with a node before it that is not there."""
        return f"amqps://guest:guest@{HOST_NAME}:{self.dead}/{NODE_SEPARATOR}{self.uri}"

    def control(self, *arguments: str) -> None:
        """Call rabbitmqctl."""
        program = str(rabbitmq_server().with_name("rabbitmqctl"))
        subprocess.run([program, "-q", "-n", self.node, *arguments], env=self._environment(), check=True)

    def _environment(self) -> dict[str, str]:
        inherited = super()._environment()
        return {name: value for name, value in inherited.items() if not name.startswith("RABBITMQ_NODE_")}

    def _accepts(self) -> bool:
        return accepts(self.port)


class EncryptedStack(Stack):
    """Its services know of two nodes of the broker and of two hosts of the database, one of which is never there."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        super().__init__(folder, free_port(), settings)
        self.authority = Authority(folder)
        client = self.authority.sign("client")
        server = self.authority.sign("server", HOST_NAME)
        self.postgres: EncryptedPostgres = EncryptedPostgres(folder / "postgres", self.authority, server, client)
        self.rabbitmq: EncryptedRabbitMQ = EncryptedRabbitMQ(folder / "rabbitmq", self.authority, server, client)

    @property
    def amqp_uri(self) -> str:
        return self.rabbitmq.uri_of_two

    def database_url(self, service: str) -> str:
        return self.postgres.url_of_two(service)

    def environment(self) -> dict[str, str]:
        return super().environment() | self.rabbitmq.files
