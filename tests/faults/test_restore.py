"""One of the four databases is restored to an older state: what can be repaired is, and the rest is named exactly."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local.net import free_port, wait_for
from services.local.stack import Stack
from services.shop import SERVICES
from tests.books import rows, wait_until_quiet
from tests.client import Api
from tests.commands import audit, nameko_hw
from tests.conftest import QUICK
from tests.faults.restoring import back_up, restore
from tests.load import Load

pytestmark = pytest.mark.long
READY_S = 60
WORK = 30  # orders that are paid before the backup, and after it


class Restored:
    """A stack, the backups of its databases, and what was there when the load had ended."""

    def __init__(self, stack: Stack, backups: dict[str, Path]) -> None:
        self.stack = stack
        self.backups = backups
        self.users = {str(row.id): row for row in rows(stack, "users", "select id, name, email from users")}
        self.orders = self.ended()
        self.letters = self.written()

    def ended(self) -> dict[str, tuple]:
        found = rows(self.stack, "orders", "select id, user_id, price, status from orders")
        return {str(row.id): (row.user_id, row.price, row.status) for row in found}

    def written(self) -> dict[str, str]:
        found = rows(self.stack, "notifications", "select order_id, kind from letters where order_id is not null")
        return {str(row.order_id): row.kind for row in found}

    def restore(self, service: str) -> None:
        restore(self.stack, service, self.backups[service])
        wait_for(self.stack.is_ready, READY_S, "the services to be ready")

    def reconcile(self, *options: str) -> list[str]:
        """Run the command; return what it has left to a person."""
        done = nameko_hw(self.stack, "reconcile", "--patience", "0.5", *options)
        left = [line for line in done.stdout.splitlines() if line.startswith("LEFT")]
        assert done.returncode == bool(left), done.stdout + done.stderr
        return left


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    folder = tmp_path_factory.mktemp("restored")
    with Stack(folder / "stack", free_port(), QUICK) as stack:
        with Load(stack.url, clients=4, pause_s=0.02) as load:
            wait_for(lambda: load.counted["paid"] > WORK, READY_S, "the load to run")
            backups = {service: back_up(stack, service, folder) for service in SERVICES}
            so_far = load.counted["paid"]
            wait_for(lambda: load.counted["paid"] > so_far + WORK, READY_S, "work after the backups")
        wait_until_quiet(stack)
        audit(stack)
        yield Restored(stack, backups)


def test_letters_and_addresses_that_notifications_has_forgotten_are_written_again(restored: Restored):
    restored.restore("notifications")
    assert restored.written() != restored.letters
    assert restored.reconcile("--dry-run") == []
    assert restored.written() != restored.letters
    assert restored.reconcile() == []
    wait_until_quiet(restored.stack)
    assert restored.written() == restored.letters
    audit(restored.stack)


def test_orders_that_were_forgotten_are_stored_again_if_billing_knows_of_them(restored: Restored):
    restored.restore("orders")
    assert restored.reconcile() == []
    wait_until_quiet(restored.stack)
    assert restored.ended() == restored.orders
    assert restored.written() == restored.letters
    audit(restored.stack)


def test_payments_that_billing_has_forgotten_are_made_again_and_the_others_named(restored: Restored):
    restored.restore("billing")
    left = restored.reconcile()
    assert [line for line in left if "cannot pay" not in line] == []
    report = nameko_hw(restored.stack, "audit").stdout
    assert report.count("VIOLATION") == len(left)
    with Api(restored.stack.url) as api:
        for line in left:  # deposits are gone too: what a person knows of them is put back
            order_id = line.split("order ")[1].split(":")[0]
            user_id, price, _ = restored.orders[order_id]
            assert f"VIOLATION  order {order_id}: paid, but billing has no payment" in report
            assert api.deposit(str(user_id), price, f"restored {order_id}").ok
    assert restored.reconcile() == []
    wait_until_quiet(restored.stack)
    audit(restored.stack)
    assert restored.reconcile() == []


def test_users_who_were_forgotten_are_named(restored: Restored):
    restored.restore("users")
    present = {str(id_) for (id_,) in rows(restored.stack, "users", "select id from users")}
    lost = restored.users.keys() - present
    left = restored.reconcile()
    assert sorted(line.split("account ")[1].split(":")[0] for line in left) == sorted(lost) != []
    for id_ in lost:  # who it was, a person has to say
        values = {"id": id_, "name": restored.users[id_].name, "email": restored.users[id_].email}
        insert = """insert into users (id, name, email, status, retry_at)
                    values (:id, :name, :email, 'pending', now()) returning id"""
        rows(restored.stack, "users", insert, **values)
    wait_until_quiet(restored.stack)
    assert restored.reconcile() == []
    audit(restored.stack)
