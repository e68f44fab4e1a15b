"""The tables of the benchmark, worked out by hand from runs that are given."""

import ast
import json
from dataclasses import replace
from statistics import median

import pytest

from bench import comparison, report
from bench.contenders import Finished
from bench.load import Run
from services.local.stack import ROOT

RUN = Run(
    "nameko-hw",
    clients=16,
    orders=100,
    per_second=400,
    per_second_to_letter=380,
    p50_ms=30,
    p99_ms=60,
    application_ms=2,
    broker_ms=0.5,
    database_ms=1.25,
)
PEER = replace(RUN, contender="FastAPI")


def runs() -> list[Run]:
    """Three pairs, A B A B A B; the medians of the rates are 400 and 200, their ratios 4, 2 and 1.5."""
    rates = [(400, 100), (800, 400), (300, 200)]
    return [one for ours, peer in rates for one in (replace(RUN, per_second=ours), replace(PEER, per_second=peer))]


def cells(markdown: str, *first: str) -> list[str]:
    """The cells of the row that begins with `first`."""
    [row] = [line for line in markdown.splitlines() if line.startswith("| " + " | ".join(first) + " |")]
    return row.strip("| ").split(" | ")[len(first) :]


def test_the_cost_of_an_order_is_that_of_all_processes():
    assert RUN.cpu_ms == 3.75


def test_what_was_there_before_is_not_counted():
    done = Finished(15, 15, 14) - Finished(5, 5, 5)
    assert done == Finished(10, 10, 9)
    assert not done.agree
    assert (Finished(15, 15, 15) - Finished(5, 5, 5)).agree


def test_ratios_are_taken_pair_by_pair():
    assert comparison.ratios(runs(), "nameko-hw", "FastAPI", 16, lambda run: run.per_second) == [4, 2, 1.5]


def test_a_pair_without_its_other_half_is_an_error():
    with pytest.raises(ValueError):
        comparison.ratios(runs()[:-1], "nameko-hw", "FastAPI", 16, lambda run: run.per_second)


def test_runs_at_other_numbers_of_clients_are_left_out():
    others = [replace(one, clients=64, per_second=1) for one in runs()]
    assert [one.per_second for one in comparison.of([*others, *runs()], "FastAPI", 16)] == [100, 400, 200]


def test_the_median_of_ratios_is_not_the_ratio_of_medians():
    uneven = [replace(one, per_second=rate) for one, rate in zip(runs(), (400, 100, 800, 500, 300, 200), strict=True)]
    assert median(comparison.ratios(uneven, "nameko-hw", "FastAPI", 16, lambda run: run.per_second)) == 1.6
    tables = comparison.comparison(uneven, "nameko-hw", "FastAPI")
    assert cells(tables, "nameko-hw", "16")[0] == "400"
    assert cells(tables, "FastAPI", "16")[0] == "200"
    assert cells(tables, "orders/s", "16") == ["4.00", "1.60", "1.50", "**1.60**"]


def test_a_comparison_shows_every_figure():
    tables = comparison.comparison(runs(), "nameko-hw", "FastAPI")
    assert cells(tables, "nameko-hw", "16") == ["400", "380", "30.0", "60.0", "3.75", "2.00", "0.50", "1.25"]
    assert "3 runs each; 600 orders" in tables


def test_the_table_of_all_contenders_has_the_ratio_of_ours_to_each():
    node = [replace(one, contender="Node", per_second=500, p99_ms=30, broker_ms=5) for one in runs()[::2]]
    in_turns = [one for turn in zip(runs()[::2], runs()[1::2], node, strict=True) for one in turn]
    page = comparison.against_peers(in_turns)
    leading = page.partition("### All figures")[0]
    assert leading.startswith("|  | clients | orders/s | ours / theirs | p99, ms | ours / theirs | CPU ms/order |")
    assert cells(leading, "nameko-hw", "16") == ["400", "", "60.0", "", "3.75", "", "2.00", "0.50", "1.25"]
    same = ["60.0", "**1.00**", "3.75", "**1.00**", "2.00", "0.50", "1.25"]
    assert cells(leading, "FastAPI", "16") == ["200", "**2.00**", *same]
    costs = ["30.0", "**2.00**", "8.25", "**0.45**", "2.00", "5.00", "1.25"]
    assert cells(leading, "Node", "16") == ["500", "**0.80**", *costs]
    by_pair = page.partition("### nameko-hw / Node, pair by pair")[2]
    assert cells(by_pair, "orders/s", "16") == ["0.80", "1.60", "0.60", "**0.80**"]
    assert [line for line in page.splitlines() if line.startswith("### ")] == [
        "### All figures",
        "### nameko-hw / FastAPI, pair by pair",
        "### nameko-hw / Node, pair by pair",
    ]


def test_a_table_of_ours_alone_has_no_ratio():
    assert "**" not in comparison.against_peers(runs()[::2])


def test_the_limit_of_an_order_is_that_of_all_its_databases():
    rates = {"orders": 1000, "billing": 2000, "notifications": 2000}
    sql = [
        {"clients": 16, "batch": 1, "database": name, "per_second": rate, "cpu_ms": 0.25}
        for name, rate in rates.items()
    ]
    assert report.in_sequence(sql) == pytest.approx(500)
    tables = report.limits(sql, [{"batch": 10, "per_second": 1234.0, "cpu_ms": 0.1}])
    assert cells(tables, "16", "1") == ["1000", "2000", "2000", "**500**", "0.75"]
    assert cells(tables, "10") == ["1234", "0.100"]


@pytest.mark.parametrize(
    ("cpu_factor", "rate_factor", "verdict"),
    [(1.05, 0.95, ": within 10%"), (1.20, 1, "**not** within"), (1, 0.80, "**not** within"), (0.5, 2, ": within 10%")],
)
def test_growth_is_judged_by_cost_and_rate(cpu_factor: float, rate_factor: float, verdict: str):
    pairs = [
        replace(
            RUN, contender=name, per_second=400 * rate, application_ms=4 * cpu, broker_ms=1 * cpu, database_ms=2 * cpu
        )
        for name, rate, cpu in [(report.EMPTY, 1, 1), (report.full(10**6), rate_factor, cpu_factor)]
    ]
    assert verdict in report.growth([10**6], pairs)


def test_every_full_installation_is_judged_against_the_empty_one():
    runs_ = [
        replace(RUN, contender=name, per_second=rate)
        for name, rate in [("empty", 400), ("1,000,000 rows", 388), ("10,000,000 rows", 300)]
    ]
    text = report.growth([10**6, 10**7], runs_)
    assert "1,000,000 rows: at 16 clients an order costs +0% CPU and the rate is -3%: within 10%." in text
    assert "10,000,000 rows: at 16 clients an order costs +0% CPU and the rate is -25%: **not** within 10%." in text
    assert "WAL" not in text
    text = report.growth([10**6, 10**7], [replace(run, wal_kb=run.per_second / 10) for run in runs_])
    assert "WAL an order: empty: 40.0 kB, 1,000,000 rows: 38.8 kB, 10,000,000 rows: 30.0 kB." in text


def test_many_accounts_are_judged_against_few():
    text = report.accounts([replace(RUN, contender=name) for name in (report.FEW, report.MANY)])
    assert text.startswith("100,000 accounts: at 16 clients an order costs +0% CPU")


def test_a_backlog_has_a_rate_and_the_orders_meanwhile_have_theirs():
    load = {"orders": 4000, "per_second": 800.0, "p50_ms": 20.0, "p99_ms": 60.0, "cpu_ms": 1.25}
    drained = {"backlog": "in the queue", "events": 100_000, "drained_s": 25.0}
    text = report.backlog(16, [load | {"backlog": "no backlog"}, drained, load | drained])
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows[0] == "| no backlog |  |  | 800 | 20.0 | 60.0 | 1.25 |"
    assert rows[1] == "| in the queue | 25 | 4000 |  |  |  |  |"
    assert rows[2] == "| in the queue | 25 | 4000 | 800 | 20.0 | 60.0 | 1.25 |"


def test_memory_is_judged_by_the_largest_and_by_what_it_grew():
    stack = [
        {"orders": orders, "mib": {"users": users, "orders": held}}
        for orders, users, held in [(0, 60.0, 61.0), (10_000, 60.0, 70.0), (20_000, 60.5, 72.0)]
    ]
    embedded = [{"orders": 0, "mib": {"embedded": 100.0}}, {"orders": 2000, "mib": {"embedded": 201.0}}]
    text = report.memory(stack, embedded)
    assert "the most is 72.0, under 90" in text
    assert "From 10000 to 20000 orders no service grew by more than 2.0 MiB." in text
    assert "the most is 201.0, **not** under 200" in text


def test_the_same_results_give_the_same_page():
    results = {"machine": {"system": "Linux"}, "compare": {"runs": [vars(run) for run in runs()]}}
    page = report.markdown(results)
    assert page == report.markdown(json.loads(json.dumps(results)))
    assert cells(page, "system") == ["Linux"]


def test_committed_tables_are_those_of_the_committed_runs():
    folder = ROOT / "bench" / "results"
    if not folder.exists():
        pytest.skip("nothing was measured yet")
    assert (folder / "results.md").read_text() == report.markdown(json.loads((folder / "results.json").read_text()))


def test_the_tables_need_no_package_that_only_the_benchmark_has():
    for file in [*(ROOT / "bench").glob("*.py"), ROOT / "bench" / "peers" / "__init__.py"]:
        imported = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert "matplotlib" not in "\n".join(map(ast.unparse, imported)), file
