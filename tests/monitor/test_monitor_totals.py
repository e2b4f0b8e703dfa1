"""Totals only grow: through roll-ups, retention, a reset, and a ledger that could not be written for a while."""

from __future__ import annotations

import pytest

from flask_dbopt.monitor.ledger import Ledger
from flask_dbopt.monitor.monitor import Monitor
from flask_dbopt.monitor.tally import Tally
from flask_dbopt.monitor.totals import BOUNDS, Totals, cumulated

DAY = 86_400.0


def serve(monitor: Monitor, endpoint: str = "page", sql: str = "SELECT 1", seconds: float = 0.003) -> None:
    cost = monitor.recorder.begin(endpoint, "GET")
    cost.records.append([sql, seconds, 2, None, False, 0.0, "default"])
    monitor.recorder.end(cost, 200)


def seen(totals: Totals | None) -> tuple[int, int, int]:
    """Requests, statements, and runs in the histogram."""
    assert totals is not None
    return (
        sum(one.calls for one in totals.endpoints),
        sum(one.queries for one in totals.endpoints),
        sum(totals.query_times.values()),
    )


def test_what_retention_forgets_stays_counted(build, clock):
    monitor = build(monitor_retention_days=2.0)
    for day in range(6):
        serve(monitor)
        serve(monitor, "report", f"SELECT c{day} FROM word")
        monitor.count("pool.default.requests_num", 2)
        monitor.sweep(clock.now)
        clock.now += DAY
    assert monitor.overall().calls < 12
    totals = monitor.totals()
    assert seen(totals) == (12, 12, 12)
    assert totals.counters["pool.default.requests_num"] == 12
    statements = {one.query: one for one in totals.statements}
    assert statements["SELECT ?"].calls == 6
    assert statements["SELECT ?"].seconds == pytest.approx(0.018)
    assert "SELECT c0 FROM word" not in statements  # forgotten by its text, and so by its counters


def test_a_reset_leaves_all_but_the_statements(build):
    monitor = build()
    serve(monitor)
    assert len(monitor.totals().statements) == 1
    monitor.reset()
    totals = monitor.totals()
    assert seen(totals) == (1, 1, 1)
    assert totals.statements == ()
    serve(monitor)
    assert [one.calls for one in monitor.totals().statements] == [1]
    assert seen(monitor.totals()) == (2, 2, 2)


def test_two_workers_that_are_asked_in_turn_never_tell_less(build):
    one, other = build(), build()
    told = []
    for turn in range(10):
        serve(one)
        serve(one)
        serve(other)
        told.append(seen((one, other)[turn % 2].totals()))
    assert told == sorted(told)
    assert seen(one.totals()) == (30, 30, 30)


def test_what_was_kept_in_memory_meanwhile_is_added_once(build, path, clock):
    monitor = build()
    serve(monitor)
    assert seen(monitor.totals()) == (1, 1, 1)
    monitor.let_go()
    aside = path.rename(path.with_name("aside"))
    path.mkdir()
    serve(monitor)
    monitor.flush()
    assert monitor.totals() is None
    path.rmdir()
    aside.rename(path)
    clock.now += 60.0
    serve(monitor)
    assert seen(monitor.totals()) == (3, 3, 3)
    assert seen(monitor.totals()) == (3, 3, 3)


def test_without_a_file_memory_tells(build):
    monitor = build(path=None)
    serve(monitor)
    assert seen(monitor.totals()) == (1, 1, 1)


def test_a_duration_is_counted_at_the_first_bound_that_it_does_not_pass(build):
    monitor = build()
    for seconds in (0.00001, 0.0009, 0.0011, 0.3, 11.0):
        serve(monitor, seconds=seconds)
    assert monitor.totals().query_times == {0.0001: 1, 0.001: 1, 0.0025: 1, 0.5: 1, float("inf"): 1}


def test_a_bound_of_an_older_version_still_counts():
    assert cumulated({0.003: 2, 0.005: 1}, (0.0025, 0.005, float("inf"))) == [
        (0.0025, 0),
        (0.005, 3),
        (float("inf"), 3),
    ]
    assert cumulated({}, BOUNDS)[-1] == (float("inf"), 0)


def test_an_empty_tally_adds_nothing(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.write(Tally({}), None)
    assert ledger.rows("SELECT * FROM total_endpoint") == []
    ledger.close()
