"""What the fault tests share."""

from collections.abc import Iterator

import pytest

from tests.conftest import QUICK
from tests.faults.proxied import ProxiedStack

PROXIED = QUICK | {"RECOVERY_INTERVAL_S": "1"}


@pytest.fixture(scope="session")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedStack]:
    """The stack whose connections can be harmed one by one."""
    with ProxiedStack(tmp_path_factory.mktemp("proxied"), PROXIED) as running:
        yield running
