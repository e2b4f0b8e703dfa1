"""What the monitor tells of what ran."""

import logging
import sqlite3
import threading
from contextlib import closing
from itertools import pairwise

import pytest

from flask_dbopt import signals
from flask_dbopt.monitor import intake
from flask_dbopt.monitor.recorder import PENDING
from flask_dbopt.monitor.request import CURRENT
from flask_dbopt.monitor.sums import identify
from flask_dbopt.monitor.tally import MOST_STATEMENTS, OTHER


def test_a_statements_row_has_every_figure(monitor, serve, clock):
    serve(
        monitor,
        "search",
        ("SELECT * FROM keyword WHERE id = 1", 0.010, 3, None, False),
        ("SELECT * FROM keyword WHERE id = 2", 0.030, 5, None, False),
        ("SELECT * FROM keyword WHERE id = 3", 0.020, -1, "OperationalError", False),
        ("SELECT * FROM keyword WHERE id = 1", 0.000001, 3, None, True),
    )
    (row,) = monitor.queries()
    assert row.query == "SELECT * FROM keyword WHERE id = ?"
    assert row.id == identify(row.query)
    assert len(row.id) == 12
    assert (row.calls, row.rows, row.errors, row.cache_hits) == (4, 11, 1, 1)
    assert row.total_exec_time == pytest.approx(60)
    assert (row.min_exec_time, row.max_exec_time) == (10, 30)
    assert row.mean_exec_time == pytest.approx(20)
    assert row.stddev_exec_time == pytest.approx(8.165, rel=1e-3)
    assert row.p50 == pytest.approx(20, rel=0.02)
    assert row.p99 == pytest.approx(29.8, rel=0.02)
    assert row.endpoints == ("search",)
    assert row.place is None
    assert row.first_seen == row.last_seen == pytest.approx(clock.now, abs=1)


def test_figures_are_the_same_before_and_after_the_flush(monitor, serve, clock):
    serve(monitor, "search", ("SELECT 1", 0.010), ("SELECT 'a'", 0.2))
    monitor.recorder.record("SELECT 2", 0.1, 1, None, False)
    monitor.count("shouts", 3)
    since = clock.now - 60
    before = monitor.queries(), monitor.endpoints(), monitor.overall(since), monitor.counters()
    chart = monitor.series(since)
    monitor.sweep(clock.now)
    assert (monitor.queries(), monitor.endpoints(), monitor.overall(since), monitor.counters()) == before
    assert monitor.series(since) == chart


def test_a_request_tells_its_endpoint_its_time_and_its_statements(monitor, serve):
    serve(monitor, "search", ("SELECT 1", 0.010), ("SELECT 2", 0.005, 1, None, True))
    serve(monitor, "search", status=500)
    serve(monitor, "", status=404)
    serve(monitor, "list", ("SELECT 1", 1.0), status=None)
    found = {row.endpoint: row for row in monitor.endpoints()}
    assert set(found) == {"search", "list", "(no route)"}
    search = found["search"]
    assert (search.calls, search.errors, search.queries, search.cache_hits) == (2, 1, 2, 1)
    assert search.database_time == pytest.approx(10)
    assert 0 < search.mean_time == pytest.approx(search.total_time / 2)
    assert search.p50 <= search.p95 <= search.p99
    assert found["list"].errors == 1
    everything = monitor.overall()
    assert (everything.calls, everything.errors, everything.queries) == (4, 2, 3)


def test_work_outside_any_request_counts_as_statements_but_is_no_request(monitor, clock):
    monitor.recorder.record("SELECT 1", 0.010, 1, None, False)
    monitor.sweep(clock.now)
    assert monitor.queries()[0].calls == 1
    assert monitor.queries()[0].endpoints == ()
    assert monitor.endpoints() == []
    assert monitor.overall().queries == 0
    assert sum(point.queries for point in monitor.series(clock.now - 60)) == 1


def test_rows_and_time_that_a_cursor_adds_while_it_fetches_are_counted_once(monitor, clock):
    fetching = monitor.recorder.record("SELECT 1", 0.001, -1, None, False)
    monitor.sweep(clock.now)
    assert monitor.queries()[0].calls == 1
    fetching[1] += 5.0
    fetching[2] = 70
    clock.now += 2
    monitor.sweep(clock.now)
    del fetching
    monitor.sweep(clock.now)
    (row,) = monitor.queries()
    assert (row.calls, row.rows, row.max_exec_time) == (1, 70, 5001)
    assert row.min_exec_time == 5001


def test_a_cursor_that_is_never_let_go_is_counted_all_the_same(monitor, clock, build):
    kept = monitor.recorder.record("SELECT 1", 0.001, -1, None, False)
    monitor.sweep(clock.now)
    assert build().queries() == []
    clock.now += intake.FETCHING
    monitor.sweep(clock.now)
    assert build().queries()[0].calls == 1
    assert kept[0] == "SELECT 1"


def test_queries_are_sorted_by_whatever_is_asked_for(monitor, serve, clock):
    serve(monitor, "a", ("SELECT often", 0.001, 1, None, False), ("SELECT often", 0.001, 1, None, False))
    monitor.sweep(clock.now)
    clock.now += 30
    serve(monitor, "a", ("SELECT slow", 0.5, 0, None, False))
    serve(monitor, "a", ("SELECT wide", 0.002, 900, "OperationalError", False))
    first = {
        sort: monitor.queries(sort)[0].query
        for sort in ("total_time", "mean_time", "max_time", "p95", "calls", "rows", "errors", "last_seen")
    }
    assert first == {
        "total_time": "SELECT slow",
        "mean_time": "SELECT slow",
        "max_time": "SELECT slow",
        "p95": "SELECT slow",
        "calls": "SELECT often",
        "rows": "SELECT wide",
        "errors": "SELECT wide",
        "last_seen": first["last_seen"],
    }
    assert first["last_seen"] != "SELECT often"
    with pytest.raises(ValueError, match="total_time, mean_time"):
        monitor.queries("speed")


def test_since_leaves_out_what_ran_before(monitor, serve, clock):
    serve(monitor, "a", ("SELECT old", 0.001))
    monitor.sweep(clock.now)
    clock.now += 60
    serve(monitor, "b", ("SELECT new", 0.001))
    assert [row.query for row in monitor.queries(since=clock.now - 20)] == ["SELECT new"]
    assert [row.endpoint for row in monitor.endpoints(clock.now - 20)] == ["b"]
    assert [row.query for row in monitor.workload(clock.now - 20)] == ["SELECT new"]
    assert len(monitor.queries()) == 2


def test_one_query_is_found_by_its_id_and_the_workload_names_the_costliest_first(monitor, serve):
    serve(monitor, "a", ("SELECT cheap", 0.001), ("SELECT dear", 0.5), ("SELECT cheap", 0.0, 1, None, True))
    cheap = identify("SELECT cheap")
    assert monitor.query(cheap).calls == 2
    assert monitor.query("0" * 12) is None
    first, second = monitor.workload()
    assert (first.query, first.calls, first.seconds) == ("SELECT dear", 1, 0.5)
    assert (second.id, second.calls, second.seconds) == (cheap, 2, 0.001)


def test_a_chart_has_equal_steps_and_tells_the_quiet_ones_too(monitor, serve, clock):
    since = clock.now
    clock.now += 5
    for _ in range(10):
        serve(monitor, "a", ("SELECT 1", 0.010))
        monitor.count("cache.hits", 3)
        monitor.count("cache.misses", 1)
        monitor.sweep(clock.now)
        clock.now += 30
    chart = monitor.series(since, points=60)
    assert len(chart) == 31  # of the finest slots, 10 s each
    assert {later.start - point.start for point, later in pairwise(chart)} == {10.0}
    assert sum(point.requests for point in chart) == 10
    assert sum(point.queries for point in chart) == 10
    assert sum(point.cache_hits for point in chart) == 30
    assert sum(point.cache_misses for point in chart) == 10
    assert sum(point.database_ms for point in chart) == pytest.approx(100)
    assert [point.p95 is None for point in chart[:4]] == [False, True, True, False]
    assert len(monitor.series(since, points=5)) <= 5
    assert sum(point.requests for point in monitor.series(since, points=5)) == 10
    assert sum(point.requests for point in monitor.series()) == 10
    assert sum(point.requests for point in monitor.series(clock.now - 90 * 86400, points=60)) == 10


def test_a_chart_of_nothing_is_one_quiet_step(monitor):
    (point,) = monitor.series()
    assert (point.requests, point.p95) == (0, None)


def test_counters_of_a_source_are_added_as_they_grow_and_gauges_belong_to_the_worker(monitor, clock):
    pool = {"requests_num": 5, "connections_ms": 1.5}
    monitor.source("pool.default", lambda: pool, lambda: {"pool_size": 3})
    monitor.sweep(clock.now)
    pool["requests_num"] = 9
    monitor.sweep(clock.now)
    monitor.sweep(clock.now)
    assert monitor.counters()["pool.default.requests_num"] == 9
    pool["requests_num"] = 2  # it started anew
    monitor.sweep(clock.now)
    assert monitor.counters() == {"pool.default.requests_num": 11, "pool.default.connections_ms": 1.5}
    (worker,) = monitor.workers()
    assert worker.gauges == {"pool.default.pool_size": 3}


def test_a_source_that_raises_is_logged_and_the_others_are_told(monitor, clock, caplog):
    monitor.source("broken", lambda: 1 / 0, dict)
    monitor.source("cache", lambda: {"hits": 1})
    monitor.sweep(clock.now)
    assert monitor.counters() == {"cache.hits": 1}
    assert "the figures of broken could not be read" in caplog.text


def test_a_worker_lives_while_its_heart_beats(build, clock):
    one, other = build(), build()
    one.sweep(clock.now)
    other.sweep(clock.now)
    assert len(one.workers()) == 2
    clock.now += 9
    one.sweep(clock.now)
    assert len(other.workers()) == 2
    clock.now += 2
    assert [worker.heartbeat for worker in other.workers()] == [clock.now - 2]
    one.close()
    assert other.workers() == []


def test_reset_forgets_every_workers_figures(build, serve, clock):
    one, other = build(), build()
    for monitor in (one, other):
        serve(monitor, "a", ("SELECT 1", 0.01))
        monitor.count("shouts")
    one.sweep(clock.now)
    other.reset()
    assert one.queries() == other.queries() == []
    assert one.counters() == {}
    serve(one, "a", ("SELECT 1", 0.01))
    assert one.queries()[0].calls == 1


def test_a_slow_statement_is_told_as_signal_and_log_line_without_its_values(build, serve, clock, heard, caplog):
    monitor = build(monitor_slow_seconds=0.05)
    serve(monitor, "a", ("SELECT 'secret'", 0.06), ("SELECT 'quick'", 0.04), ("SELECT 'kept'", 9.0, 1, None, True))
    with caplog.at_level(logging.WARNING, "flask_dbopt.query_metrics"):
        monitor.sweep(clock.now)
    (slow,) = heard.named("slow_query")
    assert (slow["sql"], slow["seconds"], slow["endpoint"]) == ("SELECT ?", 0.06, "a")
    assert slow["id"] == monitor.queries()[0].id
    assert caplog.messages == [f"slow query {slow['id']}: 60.0 ms in a: SELECT ?"]


def test_a_request_that_repeats_a_statement_is_told_once_for_that_request(build, serve, clock, heard):
    monitor = build(monitor_n_plus_one=10)
    serve(monitor, "many", *((f"SELECT {number}", 0.001) for number in range(10)), ("SELECT now()", 0.001))
    serve(monitor, "few", *((f"SELECT {number}", 0.001) for number in range(9)))
    monitor.sweep(clock.now)
    assert heard.named("n_plus_one_detected") == [{"sql": "SELECT ?", "calls": 10, "endpoint": "many"}]
    quiet = build(monitor_n_plus_one=0)
    serve(quiet, "many", *((f"SELECT {number}", 0.001) for number in range(10)))
    quiet.sweep(clock.now)
    assert len(heard.named("n_plus_one_detected")) == 1


def test_every_statement_is_told_when_somebody_listens(monitor, serve, clock, heard):
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.sweep(clock.now)
    assert heard.named("query_executed") == []

    def listener(sender, **details):
        raise AssertionError("never reached: the monitor only emits")

    with signals.query_executed.connected_to(listener):
        serve(monitor, "a", ("SELECT 1", 0.01, 7, None, True))
        monitor.sweep(clock.now)
    assert heard.named("query_executed") == [
        {"sql": "SELECT ?", "seconds": 0.01, "rows": 7, "error": None, "cached": True}
    ]


def test_without_a_sweep_memory_stays_bounded_and_nothing_is_lost(monitor):
    for _ in range(3 * PENDING):
        monitor.recorder.record("SELECT 1", 0.001, 1, None, False)
    for _ in range(3 * PENDING):
        monitor.count("shouts")
    assert len(monitor.recorder.loose) <= PENDING
    assert monitor.queries()[0].calls == 3 * PENDING
    assert monitor.counters()["shouts"] == 3 * PENDING


def test_what_cannot_be_kept_while_a_flush_hangs_is_counted_as_dropped(monitor, clock):
    hanging, done = threading.Event(), threading.Event()
    monitor.source("slow", lambda: hanging.set() or (done.wait(30) and {}))
    flush = threading.Thread(target=monitor.sweep, args=(clock.now,))
    flush.start()
    assert hanging.wait(30)
    for _ in range(11 * PENDING):
        monitor.recorder.record("SELECT 1", 0.001, 1, None, False)
    done.set()
    flush.join()
    assert len(monitor.recorder.loose) <= 10 * PENDING
    calls = monitor.queries()[0].calls
    assert calls + monitor.counters()["monitor.dropped"] == 11 * PENDING


def test_closing_does_not_wait_for_a_flush_that_hangs(build, clock, caplog):
    monitor = build()
    hanging, done = threading.Event(), threading.Event()
    monitor.source("slow", lambda: hanging.set() or (done.wait(30) and {}))
    flush = threading.Thread(target=monitor.sweep, args=(clock.now,))
    flush.start()
    assert hanging.wait(30)
    monitor.close()
    done.set()
    flush.join()
    assert "a flush hangs" in caplog.text


def test_more_statements_than_are_kept_are_summed_on_one_row(monitor, clock):
    for number in range(MOST_STATEMENTS + 500):
        monitor.recorder.record(f"SELECT a{number}", 0.001, 1, None, False)
    monitor.sweep(clock.now)
    monitor.recorder.record("SELECT late", 0.001, 1, None, False)
    monitor.sweep(clock.now)
    rows = {row.query: row.calls for row in monitor.queries()}
    assert len(rows) == MOST_STATEMENTS + 1
    assert rows[OTHER] == 501


def test_the_longest_statements_are_kept_in_part(monitor, clock):
    monitor.recorder.record("SELECT " + ", ".join(f"a{n}" for n in range(20_000)), 0.001, 1, None, False)
    monitor.sweep(clock.now)
    assert len(monitor.queries()[0].query) < 11_000


def test_a_statement_names_at_most_ten_endpoints(build, serve, clock):
    one, other = build(), build()
    for number in range(8):
        serve(one, f"a{number}", ("SELECT 1", 0.01))
        serve(other, f"b{number}", ("SELECT 1", 0.01))
        one.sweep(clock.now)
    other.sweep(clock.now)
    (row,) = one.queries()
    assert len(row.endpoints) == 10
    assert row.endpoints[:8] == tuple(f"a{number}" for number in range(8))


def test_figures_in_memory_only_are_figures_too(build, serve, clock):
    monitor = build(path=None)
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.sweep(clock.now)
    assert monitor.queries()[0].calls == 1
    assert len(monitor.workers()) == 1
    assert monitor.notices() == ["figures are kept in memory and cover this process alone: there is no state folder"]
    monitor.reset()
    assert monitor.queries() == []


def test_closing_flushes_the_last_figures_and_closing_again_is_harmless(build, serve, path):
    monitor = build()
    serve(monitor, "a", ("SELECT 1", 0.01))
    kept = monitor.recorder.record("SELECT 1", 0.01, 1, None, False)
    monitor.close()
    monitor.close()
    assert build().queries()[0].calls == 2
    assert kept[2] == 1


def test_figures_in_memory_can_still_be_read_when_the_monitor_is_closed(build, serve):
    monitor = build(path=None)
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.close()
    assert [(query.query, query.calls) for query in monitor.queries()] == [("SELECT ?", 1)]


def test_a_monitor_that_nobody_used_leaves_no_file(build, path):
    monitor = build()
    monitor.flush()
    monitor.close()
    assert not path.exists()


def test_what_is_flushed_by_hand_is_there_for_every_worker(build, serve):
    one, other = build(), build()
    serve(one, "a", ("SELECT 1", 0.01))
    one.flush()
    assert other.queries()[0].calls == 1
    assert other.workers() == [], "a process that never swept is no worker"


def test_a_backward_clock_loses_no_figure(monitor, serve, clock):
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.sweep(clock.now)
    clock.now -= 3600
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.sweep(clock.now)
    assert monitor.queries()[0].calls == 2
    assert len(monitor.workers()) == 1


def test_the_ledger_is_an_sqlite_file_of_its_own_in_a_folder_that_git_ignores(monitor, serve, clock, path):
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.sweep(clock.now)
    assert (path.parent / ".gitignore").read_text() == "*\n"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert CURRENT.get() is None
