"""The configuration, as the commands read it."""

import os
import sys
from typing import Any

import yaml
from nameko.cli.main import setup_yaml_parser

from services.kit.config import BadConfiguration, check
from services.ops import running
from services.shop import SERVICES


def configuration() -> dict[str, Any]:
    """Read config.yaml as Nameko does, and check it; exit with one line when a setting is wrong."""
    setup_yaml_parser()
    config: dict[str, Any] = yaml.safe_load((running.ROOT / "config.yaml").read_text())
    try:
        check(config)
    except BadConfiguration as error:
        sys.exit(str(error))
    return config


def database_urls() -> dict[str, str]:
    """Return the URL of each service's database: that of the running stack where the environment names no servers."""
    if not os.environ.get("AMQP_URI") and not os.environ.get("ORDERS_DATABASE_URL"):
        os.environ.update(running.environment())
    uris = configuration()["DB_URIS"]
    return {service: uris[f"{service}:Base"] for service in SERVICES}
