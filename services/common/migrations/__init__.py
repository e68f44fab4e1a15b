"""Alembic for all four services: one environment here, a folder of versions in each service."""
from importlib import import_module
from pathlib import Path

import alembic.command
from alembic.config import Config

SERVICES = ("users", "billing", "orders", "notifications")
HERE = Path(__file__).parent


def configuration(service: str, url: str) -> Config:
    """Alembic's configuration for one service's database."""
    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.set_main_option("version_locations", str(HERE.parents[1] / service / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.attributes["url"] = url
    config.attributes["metadata"] = import_module(f"services.{service}.models").Base.metadata
    return config


def upgrade(service: str, url: str) -> None:
    """Bring the database of `service` to the newest version. Safe to run twice, and by several replicas at once."""
    alembic.command.upgrade(configuration(service, url), "head")
