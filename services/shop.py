"""The shop as a whole: its services, what they serve, and what the kit needs to know of it."""

from importlib import import_module
from pathlib import Path
from typing import Any

from services.contracts import AccountNotFound
from services.kit import container
from services.kit.product import Product
from services.kit.web.problems import not_found

SERVICES = ("users", "billing", "orders", "notifications")

#: The first part of a path, and the service that answers there. The documentation is the same in all of them, so users
#: serves it.
ROUTES = {name: name for name in SERVICES} | dict.fromkeys(("", "docs", "openapi.json"), "users")

SHOP = Product(
    name="nameko-hw",
    problems={AccountNotFound: lambda: not_found("account of this user")},
    openapi=Path(__file__).parents[1] / "docs" / "openapi.json",
)


class Container(container.Container):
    """The container of all four services; config.yaml names it."""

    product = SHOP


def service_class(name: str) -> Any:
    """Return the Nameko service called `name`."""
    module = import_module(f"services.{name}.service")
    return getattr(module, f"{name.capitalize()}Service")


def services_with(table: type) -> list[str]:
    """Return the names of the services that have a table of this kind, `OutboxRow` or `InboxRow`, in their models."""
    return [name for name in SERVICES if any(_is_kind_of(table, one) for one in vars(_models(name)).values())]


def _models(service: str) -> Any:
    return import_module(f"services.{service}.models")


def _is_kind_of(table: type, one: object) -> bool:
    return isinstance(one, type) and issubclass(one, table) and one is not table
