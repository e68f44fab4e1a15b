"""Who may what with AUTH=jwt, with one process a service."""

import json
from collections.abc import Iterator

import pytest

from services.local.net import free_port
from services.local.stack import Stack
from tests.matrix import Matrix, Shop, settings, shop_at
from tests.tokens import Provider

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    provider, folder = Provider(), tmp_path_factory.mktemp("auth")
    keys = folder / "keys.json"
    keys.write_text(json.dumps(provider.jwks()))
    with Stack(folder, free_port(), settings(keys), say=lambda _: None) as stack, shop_at(stack.url, provider) as shop:
        yield shop


class TestWhoMayWhatInTheStack(Matrix):
    pass
