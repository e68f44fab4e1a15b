"""The arithmetic of docs/scale.md: costs, the simulation, sizes and the page, worked out by hand where possible."""

import json
from dataclasses import replace
from typing import Any

import pytest

from bench import scale_report, sizing
from bench.alone import Taken
from bench.costs import Cost, fit
from bench.engine import Clock, Cores, Process, Rounds
from bench.scale import RESULTS
from bench.simulation import Costs, Deployment, simulate

FREE = Cost()
COSTS = Costs(
    orders=Cost(3, 0.5),
    orders_database=Cost(1, 0.1),
    calls=Cost(1, 0),
    billing=Cost(1, 0),
    billing_database=Cost(0.5, 0),
    notifications=Cost(0.5, 0.1),
    notifications_database=Cost(0.5, 0.1),
    deliveries=Cost(0, 0.1),
    load_ms=0.1,
    sync_ms=0.5,
)
TAKEN = Taken(
    "orders",
    "16 clients",
    orders=1000,
    batch=8,
    per_second=900,
    service_ms=0.5,
    broker_ms=0.1,
    database_ms=0.2,
    load_ms=0.05,
    wal_bytes=3000,
    cores={"orders": 0.95, "stub": 0.1, "broker": 0.2, "database": 0.2, "load": 0.05},
)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job takes exactly its time."""
    monkeypatch.setattr("bench.engine.SPREAD", (1.0, 1.0))


def test_a_line_is_found_again():
    cost = Cost(1.5, 0.25)
    found = fit([(batch, cost.per_item(batch)) for batch in (1, 8, 64)])
    assert (found.round_ms, found.item_ms) == pytest.approx((1.5, 0.25))
    assert cost.of(4) == pytest.approx(4 * cost.per_item(4))


def test_no_part_of_a_cost_is_below_zero():
    assert fit([(1, 1.0), (2, 0.4), (4, 0.1)]).item_ms == 0.0
    assert fit([(1, 1.0), (8, 2.0)]) == Cost(0.0, 1.5)


@pytest.mark.parametrize(("cores", "processes", "ends"), [(1, 3, [3]), (3, 3, [1]), (2, 3, [2]), (3, 1, [3])])
def test_a_job_needs_its_process_and_a_core(steady: None, cores: int, processes: int, ends: list[int]):
    clock = Clock(1)
    machine = Cores(clock, cores)
    named = [Process(machine, "one") for _ in range(processes)]
    done: list[float] = []
    for number in range(3):
        named[number % processes].run(1, lambda: done.append(clock.now))
    clock.run_until(10)
    assert len(done) == 3
    assert max(done) == ends[0]
    assert machine.busy_ms == {"one": 3}


def test_what_comes_during_a_round_is_done_in_the_next(steady: None):
    clock = Clock(1)
    batches: list[list[int]] = []

    def work(items, done) -> None:
        batches.append(items)
        clock.after(5, done)

    rounds = Rounds(work, most=3)
    for number, at in enumerate((0, 1, 2, 3, 4)):
        clock.after(at, lambda number=number: rounds.add(number))
    clock.run_until(100)
    assert batches == [[0], [1, 2, 3], [4]]
    assert (rounds.rounds, rounds.items) == (3, 5)


def test_one_client_waits_for_all_steps_in_turn(steady: None):
    found = simulate(COSTS, Deployment(shared=8), clients=1)
    # orders but for the publishing, the broker, billing, three statements, and three times the disk
    answer_ms = (3 + 0.4) + 1 + 1 + (1 + 0.1 + 0.5) + 3 * 0.5
    assert found.p50_ms == pytest.approx(answer_ms, abs=0.7)  # at times it meets the publishing of those before it
    assert found.per_second == pytest.approx(1000 / (found.p50_ms + COSTS.load_ms), rel=0.05)
    assert found.batch == 1


def test_more_clients_share_rounds_and_cost_less():
    one, many = (simulate(COSTS, Deployment(shared=2), clients=number) for number in (1, 16))
    assert many.batch > 3
    assert many.per_second > 2 * one.per_second
    assert many.busy["orders"] / many.per_second < 0.6 * one.busy["orders"] / one.per_second


def test_two_cores_do_more_than_one():
    one, two = (simulate(COSTS, Deployment(shared=cores), clients=32).per_second for cores in (1, 2))
    assert one * 1.2 < two


def test_the_same_seed_gives_the_same_figures():
    first, again, other = (simulate(COSTS, Deployment(orders=2), rate=300, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_order_gets_its_letter():
    costs = replace(COSTS, sync_ms=0)
    found = simulate(costs, Deployment(orders=2), rate=200, seconds=4)
    assert found.letters == pytest.approx(4 * 200, rel=0.15)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "SIMULATED_ORDERS", 1000)
    monkeypatch.setattr(sizing, "SLACK", 1.1)  # as less time is simulated


def test_a_deployment_bears_its_rate(quick: None):
    wal_bytes = dict.fromkeys(sizing.SERVICES, 3000.0)
    found = sizing.size(1000, 0.6, COSTS, wal_bytes)
    assert found.simulated.per_second == pytest.approx(1000, rel=0.1)
    assert max(found.simulated.busy.values()) <= 0.6 * sizing.SLACK
    assert found.deployment.orders > 1
    busier = sizing.size(1000, 0.75, COSTS, wal_bytes)
    assert busier.deployment.orders < found.deployment.orders
    assert busier.simulated.batch > found.simulated.batch


def test_a_log_that_one_disk_cannot_take_needs_shards(quick: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sizing, "WAL_MB_S", 1)
    found = sizing.size(1000, 0.6, COSTS, {"orders": 2500.0, "billing": 600.0, "notifications": 1000.0})
    assert found.shards == {"orders": 3, "billing": 1, "notifications": 1}


def test_limits_begin_with_the_lowest():
    runs = [TAKEN, replace(TAKEN, service="billing", service_ms=0.02), replace(TAKEN, service="notifications")]
    found = sizing.limits(runs, sizing.costs_of(runs, 0.5), dict.fromkeys(sizing.SERVICES, 1000.0))
    assert found[0] == sizing.Limit("one process of orders", 2000, "another process")
    assert [one.per_second for one in found] == sorted(one.per_second for one in found)


def test_the_limit_is_what_was_busy_all_the_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert TAKEN.limited_by == "orders"
    assert replace(TAKEN, cores={"orders": 0.5, "stub": 0.1, "load": 0.95}).limited_by == "load"
    assert replace(TAKEN, cores={"orders": 0.7, "stub": 0.1, "load": 0.2, "database": 0.9}).limited_by == "all cores"
    assert replace(TAKEN, cores={"orders": 0.5, "stub": 0.1, "load": 0.1, "database": 0.9}).limited_by == "waiting"
    assert TAKEN.most_per_second == 2000


def test_the_page_shows_what_was_measured():
    measured = scale_report.MEASURED.text()
    assert measured == scale_report.markdown(json.loads(RESULTS.read_text())), "run `python -m bench.scale report`"


def rounded(value: Any) -> Any:
    """Return what JSON keeps of it, to 9 digits: Python 3.12 began to add up more precisely."""
    return json.loads(json.dumps(value, default=vars), parse_float=lambda text: float(f"{float(text):.9g}"))


def test_what_is_computed_follows_from_what_was_measured():
    results = json.loads(RESULTS.read_text())
    computed = rounded(results["computed"])
    taken = [Taken(**one) for one in results["capacity"]["taken"]]
    costs, wal_bytes = sizing.costs_of(taken, results["capacity"]["sync_ms"]), sizing.wal_of(taken)
    assert rounded(vars(costs)) == computed["costs"]
    [one] = sizing.predicted(costs, results["machine"]["cores"], [1]).values()
    assert one.per_second == pytest.approx(results["computed"]["predicted"]["1"]["per_second"])
    assert rounded(sizing.limits(taken, costs, wal_bytes)) == computed["limits"]


def test_the_error_of_the_simulation_is_named():
    predicted = {"16": {"per_second": 900.0, "p50_ms": 18.0}}
    run = {"contender": "nameko-hw", "clients": 16, "orders": 1, "per_second": 1000.0, "per_second_to_letter": 990.0}
    run |= {"p50_ms": 15.0, "p99_ms": 30.0, "application_ms": 1.0, "broker_ms": 1.0, "database_ms": 1.0}
    text = "\n".join(scale_report.checked(predicted, scale_report.runs_of({"runs": [run]}), 0.1))
    assert "| 16 | 900 | 1000 | **-10%** | 18.0 | 15.0 | **+20%** |" in text
