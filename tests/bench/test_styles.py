"""The experiment with the styles: its figures, worked out by hand, and the page that shows them."""

import json
from http.client import HTTPConnection

from bench import styles_report
from bench.clients import place
from bench.compare import RESULTS
from bench.outages import by_second
from bench.styles import quantiles
from services.local.net import HOST, free_port

RUN = {
    "style": "broker",
    "clients": 1,
    "orders": 10,
    "per_second": 100.0,
    "answer_ms": [4.0, 8.0],
    "decision_ms": [3.0, 6.0],
    "letter_ms": [40.0, 80.0],
    "services_ms": 2.0,
    "broker_ms": 1.0,
    "database_ms": 1.0,
}


def test_quantiles_are_in_milliseconds():
    assert quantiles([number / 1000 for number in range(1, 101)]) == [51, 100]
    assert quantiles([0.007]) == [7, 7]


def test_an_order_that_nobody_answers_has_no_status_and_no_id():
    sent = place(HTTPConnection(HOST, free_port(), timeout=1), "a user")
    assert (sent.status, sent.id) == (0, "")
    assert sent.answered_at >= sent.sent_at


def test_moments_are_counted_by_second():
    assert by_second(100.0, [100.1, 100.9, 103.0]) == {0: 2, 3: 1}


def test_ratios_are_of_the_same_round():
    runs = [RUN, RUN | {"style": "http", "per_second": 50.0}, RUN | {"style": "events", "per_second": 200.0}]
    runs += [RUN, RUN | {"style": "http", "per_second": 80.0}, RUN | {"style": "events", "per_second": 100.0}]
    steady = [RUN | {"style": style, "clients": 0, "per_second": 50.0} for style in styles_report.STYLES]
    text = "\n".join(styles_report.speed(runs, [], steady, 50))
    assert "| http to broker | 1 | 0.50 0.80, **0.65** |" in text
    assert "| events to broker | 1 | 2.00 1.00, **1.50** |" in text
    assert "| broker | 1 | 100 | 4.0 | 8 | 3.0 | 6 | 40.0 | 80 | 2.00 | 1.00 | 1.00 |" in text
    assert "| events | 50 | 4.0 | 8 |" in text
    assert "2 rounds, the styles in turns; 90 orders" in text


def test_the_page_shows_what_was_measured():
    measured = styles_report.MEASURED.text()
    assert measured == styles_report.markdown(json.loads(RESULTS.read_text())), "run `python -m bench.compare report`"


def test_every_style_was_harmed_in_every_way_and_the_books_were_right():
    runs = json.loads(RESULTS.read_text())["outages"]["runs"]
    assert len({(one["style"], one["victim"], one["way"]) for one in runs}) == 3 * 5 * 2 - 2, "http has no broker"
    assert all(one["violations"] == 0 for one in runs)


def test_the_machine_is_described_in_a_line():
    described = {"processor": "Abacus, 2 cores", "Python": "3.11.7"}
    assert styles_report.machine(described) == "Abacus, 2 cores, Python 3.11.7"
