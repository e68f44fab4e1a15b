"""The Nameko container that all four services run in."""
import sys
from typing import Any

from nameko.containers import ServiceContainer

from services.common.config import BadConfiguration, check
from services.common.database import with_driver


class Container(ServiceContainer):
    """A service container that refuses to start on a wrong configuration; named by SERVICE_CONTAINER_CLS."""

    def __init__(self, service_cls: type, config: dict[str, Any]) -> None:
        try:
            self.settings = check(config)
        except BadConfiguration as error:
            sys.exit(str(error))
        urls = {key: with_driver(url) for key, url in self.settings.DB_URIS.items()}
        super().__init__(service_cls, {**config, "DB_URIS": urls})
