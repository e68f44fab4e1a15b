"""The stack with a proxy between every service and its database, and between every service and the broker."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from services.local.net import HOST, free_port
from services.local.stack import Stack, database_variable
from services.shop import SERVICES
from tests.faults.proxy import AMQP, POSTGRES, Proxy


class ProxiedStack(Stack):
    """`databases` and `brokers` are the proxies, one a service. Whoever asks for `environment()` goes past them."""

    def __init__(self, folder: Path, settings: dict[str, str], **options: Any) -> None:
        super().__init__(folder, free_port(), settings, **options)
        assert self.postgres and self.rabbitmq
        self.databases = {service: Proxy(self.postgres.port, POSTGRES) for service in SERVICES}
        self.brokers = {service: Proxy(self.rabbitmq.port, AMQP) for service in SERVICES}
        self._open = ExitStack()

    def environment_of(self, service: str) -> dict[str, str]:
        return {
            **self.environment(),
            "AMQP_URI": f"amqp://guest:guest@{HOST}:{self.brokers[service].port}/",
            database_variable(
                service
            ): f"postgresql+psycopg2://postgres@{HOST}:{self.databases[service].port}/{service}",
        }

    def start(self) -> None:
        for proxy in (*self.databases.values(), *self.brokers.values()):
            self._open.enter_context(proxy)
        super().start()

    def stop(self) -> None:
        super().stop()
        self._open.close()
