"""A primary and its standby: commits wait for both, and never do both take writes."""

import socket
from collections.abc import Iterator

import psutil
import pytest

from services.local.net import HOST
from services.local.pair import Pair
from services.local.postgres import Postgres
from services.local.server import CannotStart
from tests.faults.test_draining import suspended


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair") / "postgres")
    with pair:
        pair.primary.query("create table things (id int)")
        yield pair


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def values(pair: Pair) -> list[int]:
    return [value for (value,) in pair.primary.query("select id from things order by id")]


def test_commits_wait_for_the_standby(pair: Pair):
    assert pair.primary.query("select sync_state from pg_stat_replication") == [("sync",)]


def test_a_promoted_standby_takes_writes_and_the_fenced_primary_becomes_its_standby(pair: Pair):
    pair.primary.query("insert into things values (1)")
    old = pair.primary
    processes = [psutil.Process(old.pid), *psutil.Process(old.pid).children()]
    with suspended(processes[1].pid):  # a frozen process of a dead server is fenced too
        pair.promote()
    assert not any(lives(process) for process in processes)
    with pytest.raises(CannotStart, match="one of a pair"):
        Postgres(old.folder).start()
    pair.primary.query("insert into things values (2)")
    pair.standby.start()
    assert pair.standby is old and old.query("select pg_is_in_recovery()") == [(True,)]
    assert pair.primary.query("select sync_state from pg_stat_replication") == [("sync",)]
    assert values(pair) == [1, 2]


def test_a_standby_that_is_not_there_is_not_promoted_and_the_primary_stays(pair: Pair):
    pair.standby.stop()
    with pytest.raises(CannotStart, match="no standby that could be promoted"):
        pair.promote()
    assert not pair.primary.is_fenced
    pair.standby.start()


def test_a_standby_whose_primary_does_not_answer_is_not_started(pair: Pair):
    pair.standby.stop()
    with suspended(pair.primary.pid), pytest.raises(CannotStart, match="the primary does not answer"):
        pair.standby.start()
    assert not pair.standby.running
    pair.standby.start()


def test_a_promotion_that_a_crash_has_cut_off_is_finished_by_the_next_start(pair: Pair):
    before = values(pair)
    try:
        pair.primary.fence()
    finally:
        pair.stop()
    with Pair(pair.nodes[0].folder) as again:
        assert again.primary.folder == pair.standby.folder
        assert values(again) == before
        again.primary.query("insert into things values (3)")


def test_a_server_of_a_pair_is_not_started_alone_while_it_is_the_standby(pair: Pair):
    with Pair(pair.nodes[0].folder) as again:
        folder = again.standby.folder
    with pytest.raises(CannotStart, match="one of a pair"):
        Postgres(folder).start()


def test_a_pair_of_which_one_does_not_start_leaves_none(pair: Pair):
    again = Pair(pair.nodes[0].folder)
    with socket.create_server((HOST, again.standby.port)), pytest.raises(CannotStart, match="is taken"):
        again.start()
    assert not again.primary.running
