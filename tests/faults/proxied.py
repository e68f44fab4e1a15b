"""The stack with proxies between every service and its database, the broker, and the services that it calls."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from services.local.net import HOST, free_port
from services.local.stack import Stack, database_variable
from services.shop import SERVICES
from tests.faults.proxy import AMQP, HTTP, POSTGRES, Proxy

#: Who calls whom in the style http.
CALLS = {
    "users": ("billing", "notifications"),
    "billing": ("notifications",),
    "orders": ("users", "billing", "notifications"),
}


class ProxiedStack(Stack):
    """`databases` and `brokers` are the proxies before these, one a service. Without a broker `calls` are those before
    other services, by caller and callee. Whoever asks for `environment()` goes past all of them.
    """

    def __init__(self, folder: Path, settings: dict[str, str], **options: Any) -> None:
        super().__init__(folder, free_port(), settings, **options)
        assert self.postgres
        self.databases = {service: Proxy(self.postgres.port, POSTGRES) for service in SERVICES}
        self.brokers = {service: Proxy(self.rabbitmq.port, AMQP) for service in SERVICES} if self.rabbitmq else {}
        self.calls = {
            (caller, callee): Proxy(self.internal_port or self.ports[callee][0], HTTP)
            for caller, callees in CALLS.items()
            for callee in callees
            if not self.rabbitmq
        }
        self._open = ExitStack()

    def environment_of(self, service: str) -> dict[str, str]:
        database = f"postgresql+psycopg2://postgres@{HOST}:{self.databases[service].port}/{service}"
        return {**self.environment(), database_variable(service): database, **self._addresses_for(service)}

    def _addresses_for(self, service: str) -> dict[str, str]:
        if self.brokers:
            return {"AMQP_URI": f"amqp://guest:guest@{HOST}:{self.brokers[service].port}/"}
        return {
            f"{callee.upper()}_URL": f"http://{HOST}:{proxy.port}"
            for (caller, callee), proxy in self.calls.items()
            if caller == service
        }

    def links(self, service: str) -> list[Proxy]:
        """Return the proxies between a service and the broker, or those that it calls."""
        calls = [proxy for (caller, _), proxy in self.calls.items() if caller == service]
        return [self.brokers[service]] if self.brokers else calls

    def start(self) -> None:
        for proxy in (*self.databases.values(), *self.brokers.values(), *self.calls.values()):
            self._open.enter_context(proxy)
        super().start()

    def stop(self) -> None:
        super().stop()
        self._open.close()
