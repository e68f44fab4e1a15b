"""The hand-over of an outbox to another transport, on a real PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, create_engine, text

from services.kit.db.database import Autocommit
from services.kit.outbox.handover import hand_over, publish_again
from services.kit.outbox.statements import lease_batch, mark_published
from services.local.net import wait_for
from services.local.postgres import Postgres
from services.ops.migrate import upgrade
from services.shop import STYLES

BLOCKED_S = 10
BLOCKED = "select count(*) from pg_stat_activity where datname = 'orders' and wait_event_type = 'Lock'"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as postgres:
        postgres.ensure_databases(["orders"])
        upgrade("orders", postgres.url("orders"))
        engine = create_engine(postgres.url("orders"), pool_size=4)
        yield engine
        engine.dispose()


@pytest.fixture
def engine(server: Engine) -> Engine:
    """A database whose outbox is published by AMQP, with three events of which one is published."""
    with server.begin() as connection:
        connection.execute(text("truncate outbox"))
        connection.execute(text("update outbox_transport set name = 'amqp'"))
        connection.execute(
            text(
                """insert into outbox (event_id, type, body, claimed_until, published_at)
                select gen_random_uuid(), 'order_paid', '{}', now() + interval '1 hour',
                       case when number = 1 then now() end from generate_series(1, 3) as number"""
            )
        )
    return server


def url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def published(engine: Engine) -> int:
    with engine.begin() as connection:
        return int(connection.scalar(text("select count(*) from outbox where published_at is not null")) or 0)


def mark_all(engine: Engine, transport: str) -> bool:
    with Autocommit(engine) as connection:
        ids = [str(id_) for id_ in connection.scalars(text("select event_id from outbox"))]
        return mark_published(connection, ids, transport)


def test_what_was_published_is_due_again_and_what_is_under_way_keeps_its_lease(engine: Engine):
    assert hand_over(url(engine), "http") == 1
    assert published(engine) == 0
    with Autocommit(engine) as connection:
        assert len(lease_batch(connection, 10, 15)) == 1


def test_a_second_hand_over_changes_nothing(engine: Engine):
    hand_over(url(engine), "http")
    assert mark_all(engine, "http")
    assert hand_over(url(engine), "http") == 0
    assert published(engine) == 3
    assert hand_over(url(engine), "amqp") == 3
    assert published(engine) == 0


def test_a_relay_of_the_old_transport_marks_nothing(engine: Engine):
    hand_over(url(engine), "http")
    assert not mark_all(engine, "amqp")
    assert published(engine) == 0
    assert mark_all(engine, "http")
    assert published(engine) == 3


def test_a_mark_that_comes_before_a_hand_over_is_undone_by_it(engine: Engine):
    """The hand-over waits for a relay that is marking, and so sees its marks."""
    with ThreadPoolExecutor(1) as pool, engine.connect() as relay:
        ids = [str(id_) for id_ in relay.scalars(text("select event_id from outbox"))]
        assert mark_published(relay, ids, "amqp")
        handing = pool.submit(hand_over, url(engine), "http")
        wait_until_blocked(engine)
        relay.commit()
        assert handing.result(BLOCKED_S) == 3
    assert published(engine) == 0


def test_a_mark_that_comes_during_a_hand_over_waits_for_it_and_counts_for_nothing(engine: Engine):
    with ThreadPoolExecutor(1) as pool, engine.connect() as handing:
        handing.execute(text("update outbox_transport set name = 'http'"))
        marking = pool.submit(mark_all, engine, "amqp")
        wait_until_blocked(engine)
        handing.commit()
        assert marking.result(BLOCKED_S) is False
    assert published(engine) == 1, "what was marked before, as this hand-over has not come to the events"


def wait_until_blocked(engine: Engine) -> None:
    with Autocommit(engine) as connection:
        wait_for(lambda: connection.scalar(text(BLOCKED)), BLOCKED_S, "somebody to wait for a lock")


def test_all_that_is_kept_can_be_published_again_by_the_same_transport(engine: Engine):
    assert mark_all(engine, "amqp")
    assert publish_again(url(engine)) == 3
    assert mark_all(engine, "amqp")


def test_a_migration_hands_over_to_the_transport_of_the_style(engine: Engine):
    assert upgrade("orders", url(engine)) == 0
    assert upgrade("orders", url(engine), STYLES["events"]) == 0
    assert upgrade("orders", url(engine), STYLES["http"]) == 1
    assert upgrade("orders", url(engine), STYLES["http"]) == 0
    assert upgrade("orders", url(engine), STYLES["broker"]) == 0
