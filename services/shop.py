"""The shop as a whole: its services, and what the kit has to be told of it."""

from importlib import import_module
from pathlib import Path
from typing import Any

from services.contracts import AccountNotFound
from services.kit import container
from services.kit.product import Product
from services.kit.web.problems import not_found

SERVICES = ("users", "billing", "orders", "notifications")

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
