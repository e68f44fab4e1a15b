"""Timers whose interval is a setting."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from nameko.timer import Timer

from services.kit.errors import TEMPORARY

log = logging.getLogger(__name__)


class Every(Timer):
    """Nameko's timer, whose interval in seconds is a setting."""

    def __init__(self, setting: str) -> None:
        self.setting = setting
        super().__init__(interval=None)

    def setup(self) -> None:
        self.interval = getattr(self.container.settings, self.setting)


def every(setting: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Run the decorated method of a service every `setting` seconds. What fails is tried again the next time."""

    def decorate(function: Callable[[Any], None]) -> Callable[[Any], None]:
        @wraps(function)
        def tick(service: Any) -> None:
            try:
                function(service)
            except TEMPORARY as error:
                log.warning("%s waits: %s", function.__qualname__, type(error).__name__)
            except Exception:
                log.exception("%s failed", function.__qualname__)

        return Every.decorator(setting)(tick)

    return decorate
