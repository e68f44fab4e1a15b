"""The migrations of the shop's databases: each service keeps its own in a folder beside its models."""

from importlib import import_module
from pathlib import Path

from services.kit.db import migrations

SERVICES_FOLDER = Path(__file__).parents[1]


def upgrade(service: str, url: str) -> None:
    """Bring the database of `service` to the newest version; see `kit/db/migrations`."""
    migrations.upgrade(service, url, *of(service))


def of(service: str) -> tuple[Path, object]:
    """Return the folder with the migrations of a service, and the metadata of its tables."""
    metadata = import_module(f"services.{service}.models").Base.metadata
    return SERVICES_FOLDER / service / "migrations", metadata
