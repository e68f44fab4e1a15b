"""0.1.0 becomes this version under load, and this version 0.1.0 again, without a failed request.

Old and new replicas of all services run side by side, on databases that the new version has migrated. Each version also
takes over work that the other has left: an order that is pending, an event in an outbox that was never published, one
in the inbox that failed. (One message to each old process may fail, since its sessions are ended.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import uuid4

import pytest

from services.local.net import wait_for
from services.local.stack import ROOT
from services.shop import SERVICES, STYLES
from tests.books import broken_promises, database, one, rows, violations, wait_until_quiet
from tests.client import Api, new_email
from tests.commands import audit
from tests.conftest import QUICK
from tests.faults.test_styles import wait_until_loaded
from tests.faults.versions import Version, Versions, shared_servers
from tests.load import Load
from tests.released import VERSION, unpack

pytestmark = pytest.mark.long
#: Who is asked is upgraded before those who ask, and who handles an event before those who publish it.
ORDER = ("notifications", "billing", "users", "orders")

MARKED_S = 20
WAITING = "infinity"  # a moment that does not come, until work is released


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    """The system of 0.1.0, and the new version, which does not run yet."""
    folder = tmp_path_factory.mktemp("upgrade")
    old = Version(VERSION, unpack(folder / VERSION), "service")
    new = Version("new", ROOT, STYLES["broker"].name)
    with shared_servers(folder), Versions(folder, QUICK, old, new) as running:
        running.migrate(old)
        running.start(old, *SERVICES)
        yield running


def test_an_upgrade_under_load_and_the_way_back_fail_no_request(versions: Versions):
    old, new = versions.versions
    stack = versions.stack
    with Api(stack.url) as api, Load(stack.url, clients=2, keyless=2, patient=False, pause_s=0.05) as load:
        wait_until_loaded(load)
        left = leave_work(versions, api)
        everyone_works(versions)
        versions.migrate(new)
        wait_until_loaded(load)
        everyone_works(versions)
        for service in ORDER:
            versions.start(new, service)
            wait_until_loaded(load)
            versions.stop(old, service)
        finish_work(versions, api, left)

        left = leave_work(versions, api)
        versions.migrate(old)
        versions.start(old, *SERVICES)
        wait_until_loaded(load)
        everyone_works(versions)
        versions.stop(new, *SERVICES)
        wait_until_loaded(load)
        finish_work(versions, api, left)
    assert load.failures == []
    wait_until_quiet(stack)
    assert violations(stack) == []
    assert broken_promises(stack, load.sent) == []
    audit(stack)


def everyone_works(versions: Versions) -> None:
    """Have each replica that runs do what it is there for."""
    for version, service in versions.running:
        with Api(versions.url(version, service)) as api, Api(versions.stack.url) as all_:
            match service:
                case "users":
                    answer = api.post("/users", {"name": "Ada", "email": new_email()})
                case "billing":
                    answer = api.deposit(all_.new_user()["id"], 1)
                case "orders":
                    answer = api.order(all_.new_user(balance=1)["id"], 1)
                case _:
                    body = {"email": new_email(), "subject": "Hello", "body": "Ada"}
                    key = str(uuid4())
                    answer = api.post("/notifications", body, key)
                    if answer.status_code == 503:  # its sessions have been ended, see `end_sessions`
                        answer = api.post("/notifications", body, key)
            assert answer.ok, f"{service} of {version.name}: {answer.text}"


class Left(NamedTuple):
    """Work that waits until it is released: three orders of a user."""

    user_id: str
    pending: str
    unpublished: str
    failed: str


def leave_work(versions: Versions, api: Api) -> Left:
    """Leave what a crash of the version that runs could leave."""
    stack = versions.stack
    user_id = api.new_user(balance=10)["id"]
    with account_locked(versions, user_id):
        answer = api.order(user_id, 1)
        assert answer.status_code == 202, answer.text
        pending = answer.json()["id"]
        rows(stack, "orders", "update orders set retry_at = :w where id = :id returning 1", w=WAITING, id=pending)
    unpublished, failed = (api.order(user_id, 1).json()["id"] for _ in range(2))
    api.letters(user_id, 2)
    events = {}
    for order_id in (unpublished, failed):
        event = "from outbox where body->>'order_id' = :id"
        wait_for(
            lambda: one(stack, "orders", f"select published_at is not null {event}", id=order_id), MARKED_S, "its mark"
        )
        [events[order_id]] = rows(stack, "orders", f"select event_id, body::text {event}", id=order_id)
        rows(stack, "notifications", "delete from letters where order_id = :id returning 1", id=order_id)
    rows(
        stack,
        "orders",
        "update outbox set published_at = null, claimed_until = :w where event_id = :id returning 1",
        w=WAITING,
        id=events[unpublished].event_id,
    )
    rows(
        stack,
        "notifications",
        """insert into inbox (handler, key, body, content_type, content_encoding, headers, attempts, reason,
                              next_attempt_at)
        values ('on_order_paid', :key, :body, 'application/json', 'utf-8', '{}', 1, 'a test', :w) returning 1""",
        key=str(events[failed].event_id),
        body=events[failed].body.encode(),
        w=WAITING,
    )
    return Left(user_id, pending, unpublished, failed)


@contextmanager
def account_locked(versions: Versions, user_id: str) -> Iterator[None]:
    with database(versions.stack, "billing") as connection:
        connection.exec_driver_sql("select 1 from accounts where user_id = %s for update", (user_id,))
        yield


def finish_work(versions: Versions, api: Api, left: Left) -> None:
    """Release the work that waits, and see that the versions that run now finish it."""
    for service, due in (
        ("orders", "update orders set retry_at = now() where retry_at = :w returning 1"),
        ("orders", "update outbox set claimed_until = now() where claimed_until = :w returning 1"),
        ("notifications", "update inbox set next_attempt_at = now() where next_attempt_at = :w returning 1"),
    ):
        assert len(rows(versions.stack, service, due, w=WAITING)) == 1
    letters = api.letters(left.user_id, 3)
    assert {letter["order_id"] for letter in letters} == {left.pending, left.unpublished, left.failed}
    assert len(letters) == 3
    assert api.balance(left.user_id) == 7
