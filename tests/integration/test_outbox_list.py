"""`nameko-hw outbox list`: the events of all outboxes, oldest first."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from sqlalchemy import create_engine, text

from services.local.postgres import Postgres
from services.ops import on_databases
from services.ops.migrate import upgrade
from services.ops.on_databases import outbox
from services.shop import SERVICES

USER, ORDER = UUID(int=1), UUID(int=2)
REGISTERED, PAID, PUBLISHED = UUID(int=11), UUID(int=12), UUID(int=13)
ADD = text("""
    insert into outbox (event_id, type, body, created_at, claimed_until, published_at)
    values (:id, :type, cast(:body as jsonb), :created_at, coalesce(cast(:leased_until as timestamptz), '-infinity'),
            cast(:published_at as timestamptz))""")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that shows times as somebody far from UTC would see them."""
    with Postgres(tmp_path_factory.mktemp("postgres"), settings={"timezone": "Asia/Tokyo"}) as server:
        server.ensure_databases(SERVICES)
        for service in ("users", "orders", "billing"):
            upgrade(service, server.url(service))
        yield server


@pytest.fixture(autouse=True)
def _no_events(postgres: Postgres) -> None:
    for service in ("users", "orders", "billing"):
        change(postgres, service, "truncate outbox")


def change(postgres: Postgres, service: str, statement: str) -> None:
    engine = create_engine(postgres.url(service))
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def add(
    postgres: Postgres,
    service: str,
    id_: UUID,
    type_: str,
    body: str,
    created_at: str,
    leased_until: str | None = None,
    published_at: str | None = None,
) -> None:
    engine = create_engine(postgres.url(service))
    with engine.begin() as connection:
        connection.execute(
            ADD,
            {
                "id": id_,
                "type": type_,
                "body": body,
                "created_at": created_at,
                "leased_until": leased_until,
                "published_at": published_at,
            },
        )
    engine.dispose()


@pytest.fixture
def listed(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """The command, as it prints."""

    def lines(with_published: bool = False) -> list[str]:
        outbox(Namespace(all=with_published))
        return capsys.readouterr().out.splitlines()

    monkeypatch.setattr(on_databases, "database_urls", lambda: {service: postgres.url(service) for service in SERVICES})
    return lines


def add_three(postgres: Postgres) -> None:
    """A published event, one that waits under a lease, and an older one of another service whose lease is over."""
    order = f'{{"order_id": "{ORDER}", "user_id": "{USER}"}}'
    add(postgres, "orders", PUBLISHED, "order_paid", order, "2026-01-01 10:00Z", published_at="2026-01-01 10:00:07Z")
    add(postgres, "orders", PAID, "order_paid", order, "2026-01-01 12:00Z", leased_until="2999-01-01 12:00:15Z")
    user = f'{{"user_id": "{USER}"}}'
    add(postgres, "users", REGISTERED, "user_registered", user, "2026-01-01 11:00Z", leased_until="2026-01-01 11:01Z")


def test_what_waits_is_listed_oldest_first_with_its_lease(postgres: Postgres, listed: Callable[..., list[str]]):
    add_three(postgres)
    assert listed() == [
        f"{REGISTERED}  2026-01-01T11:00:00Z  users.user_registered  user {USER}  not leased",
        f"{PAID}  2026-01-01T12:00:00Z  orders.order_paid  order {ORDER}  leased until 2999-01-01T12:00:15Z",
        "2 events wait",
    ]


def test_all_events_include_those_that_are_published(postgres: Postgres, listed: Callable[..., list[str]]):
    add_three(postgres)
    first, *others = listed(with_published=True)
    assert first == (
        f"{PUBLISHED}  2026-01-01T10:00:00Z  orders.order_paid  order {ORDER}  published at 2026-01-01T10:00:07Z"
    )
    assert others == listed()


def test_one_event_waits_and_none_do(postgres: Postgres, listed: Callable[..., list[str]]):
    assert listed() == ["0 events wait"]
    add(postgres, "orders", PAID, "order_dreamt_of", "{}", "2026-01-01 12:00Z")
    assert listed()[1:] == ["1 event waits"]
