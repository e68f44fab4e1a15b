"""The primary is killed under load and its standby promoted: nothing is lost if commits waited for the standby.

If they did not, acknowledged orders are gone. The audit names them, as billing has their payments.
"""

from collections.abc import Iterator

import pytest

from services.local.net import wait_for
from services.local.server import CannotStart
from tests.books import broken_promises, rows, wait_until_quiet
from tests.commands import audit, nameko_hw
from tests.conftest import QUICK
from tests.faults.failover import ApartStack, kill_and_promote
from tests.faults.test_draining import suspended
from tests.load import Load

pytestmark = pytest.mark.long
READY_S = 60
BEFORE = 20  # orders that are paid before the fault


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApartStack]:
    with ApartStack(tmp_path_factory.mktemp("apart"), QUICK) as running:
        yield running


def test_a_promoted_standby_has_all_that_clients_were_told(apart: ApartStack):
    old = apart.pair.primary
    with Load(apart.url, clients=4, keyless=2, pause_s=0.02) as load:
        wait_for(lambda: load.counted["paid"] > BEFORE, READY_S, "the load to run")
        took = kill_and_promote(apart, load)
        with pytest.raises(CannotStart, match="no standby that could be promoted"):
            apart.promote()
        apart.keep_servers_running()  # starts the old primary, as a standby
        assert apart.pair.standby is old and old.query("select pg_is_in_recovery()") == [(True,)]
        paid = load.counted["paid"]
        wait_for(lambda: load.counted["paid"] > paid + BEFORE, READY_S, "orders to be paid with the new standby")
    print(f"promoted after {took.promoted_s:.2f} s, an order paid after {took.paid_s:.2f} s")
    wait_for(apart.is_ready, READY_S, "everything to be up again")
    wait_until_quiet(apart)
    assert load.failures == []
    assert broken_promises(apart, load.sent) == []
    audit(apart)


def test_what_an_asynchronous_standby_has_not_got_is_lost_and_the_audit_names_it(apart: ApartStack):
    apart.pair.set_synchronous(apart.pair.primary, False)
    [[sender]] = apart.pair.primary.query("select pid from pg_stat_replication")
    with Load(apart.url, clients=4, pause_s=0.02) as load:
        wait_for(lambda: load.counted["paid"] > BEFORE, READY_S, "the load to run")
        with suspended(sender):  # the standby gets nothing from now on
            so_far = load.counted["paid"]
            wait_for(lambda: load.counted["paid"] > so_far + BEFORE, READY_S, "orders to be paid that it does not get")
            kill_and_promote(apart, load)
    apart.keep_servers_running()
    wait_for(apart.is_ready, READY_S, "everything to be up again")
    wait_until_quiet(apart)
    told = {one.id for one in load.sent if one.kind == "order" and one.status == 201}
    lost = told - {str(id_) for (id_,) in rows(apart, "orders", "select id from orders")}
    paid = {str(id_) for (id_,) in rows(apart, "billing", "select id from operations where outcome = 'accepted'")}
    assert len(lost & paid) > BEFORE / 2  # some were under way when the standby was cut off
    report = nameko_hw(apart, "audit")
    assert report.returncode == 1
    for id_ in lost & paid:
        assert f"payment for order {id_}: there is no such order" in report.stdout
