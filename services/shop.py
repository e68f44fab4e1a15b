"""The shop as a whole: its services, its styles, what they serve, and what the kit needs to know of it."""

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from services.contracts import ORDER_ID, AccountNotFound
from services.kit import container
from services.kit.product import Product
from services.ops.errors import CommandError
from services.problems import MEANINGS, not_found

SERVICES = ("users", "billing", "orders", "notifications")

#: The first part of a path, and the service that answers there. The documentation is the same in all of them, so users
#: serves it.
ROUTES = (
    {name: name for name in SERVICES}
    | {"events": "notifications"}
    | dict.fromkeys(("", "docs", "openapi.json"), "users")
)

#: The first two parts of a path that only services call, in the style `http`.
INTERNAL = "/internal/"
INTERNAL_ROUTES = {f"internal/{name}": name for name in SERVICES}

SHOP = Product(
    name="nameko-hw",
    problems={AccountNotFound: lambda: not_found("account")},
    openapi=Path(__file__).parents[1] / "docs" / "openapi.json",
    meanings=MEANINGS,
    noted={"order_id": ORDER_ID},
)


class Container(container.Container):
    """The container of all four services; config.yaml names it."""

    product = SHOP


@dataclass(frozen=True)
class Style:
    """A style of interaction: a module of that name in each service. `transport` is that of the outboxes."""

    name: str
    transport: str

    @property
    def has_broker(self) -> bool:
        return self.transport == "amqp"


STYLES = {
    name: Style(name, transport) for name, transport in (("http", "http"), ("broker", "amqp"), ("events", "amqp"))
}
DEFAULT_STYLE = "broker"


class NoSuchStyle(CommandError):
    """STYLE is none of the three; the message is one line that names them."""


def chosen_style() -> Style:
    """Return the style that the environment variable STYLE names. Raises NoSuchStyle."""
    name = os.environ.get("STYLE") or DEFAULT_STYLE
    if name not in STYLES:
        raise NoSuchStyle(f"STYLE: {name!r} is no style: it should be one of {', '.join(STYLES)}")
    return STYLES[name]


def module_of(service: str, style: Style) -> str:
    """Return the module that `nameko run` starts."""
    return f"services.{service}.{style.name}"


def service_class(name: str, style: Style) -> Any:
    """Return the Nameko service called `name` in this style."""
    return getattr(import_module(module_of(name, style)), f"{name.capitalize()}Service")


def base_class(name: str) -> Any:
    """Return what the service called `name` is in all styles."""
    return getattr(import_module(f"services.{name}.service"), name.capitalize())


def services_with(table: type) -> list[str]:
    """Return the names of the services that have a table of this kind, `OutboxRow` or `InboxRow`, in their models."""
    return [name for name in SERVICES if tables(name, table)]


def tables(service: str, kind: type) -> list[str]:
    """Return the names of the tables of this kind in the models of a service."""
    return [one.__tablename__ for one in vars(_models(service)).values() if _is_kind_of(kind, one)]


def _models(service: str) -> Any:
    return import_module(f"services.{service}.models")


def _is_kind_of(table: type, one: Any) -> bool:
    return isinstance(one, type) and issubclass(one, table) and one is not table
