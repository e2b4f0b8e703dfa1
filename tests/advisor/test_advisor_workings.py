"""When the advisor looks, how long its advice is kept, what it says to others, and that nothing breaks it."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing

import pytest

from flask_dbopt.advisor.advisor import Advisor
from flask_dbopt.engines.protocol import Plan, Planner
from flask_dbopt.engines.sqlite.planner import SQLitePlanner
from flask_dbopt.errors import AdviceError, DatabaseUnavailable

SCAN = "SELECT * FROM keyword WHERE word = ?"


@pytest.mark.parametrize(
    ("calls", "seconds", "advised"),
    [(50, 1.0, True), (49, 100.0, False), (50, 0.9, False), (100_000, 1.0, True)],
)
def test_a_statement_counts_when_it_ran_often_and_took_long(bench, calls: int, seconds: float, advised: bool) -> None:
    bench.run(SCAN)
    (line,) = bench.lines
    bench.lines[:] = [type(line)("q", SCAN, calls, seconds)]
    assert bool(bench.advisor.recommend()) is advised


def test_tables_below_the_threshold_get_no_advice(keywords, bench_on: Callable) -> None:
    bench = bench_on(keywords, min_rows=500_000)
    bench.run(SCAN)
    assert bench.advisor.recommend() == ()


def test_the_statement_that_costs_most_gives_the_first_advice(bench) -> None:
    bench.run("SELECT * FROM note WHERE keyword_id = ?", SCAN)
    assert [each.table for each in bench.advisor.recommend()] == ["note", "keyword"]


def test_advice_is_kept_for_a_minute_unless_forced(bench) -> None:
    bench.run(SCAN)
    first = bench.advisor.recommend()
    bench.lines.clear()
    assert bench.advisor.recommend() is first
    assert bench.advisor.recommend(force=True) == ()
    bench.run(SCAN)
    assert bench.advisor.recommend()[0].id == first[0].id


def test_each_advice_is_announced_once(bench) -> None:
    bench.run(SCAN)
    for _ in range(3):
        (advice,) = bench.advisor.recommend(force=True)
    assert bench.heard == [("index_recommended", {"database": "default", "recommendation": advice})]


def test_looking_takes_no_longer_than_its_budget(keywords) -> None:
    now = [0.0]

    class Slow(SQLitePlanner):
        explained = 0

        def explain(self, sql: str, parameters: object = ()) -> Plan:
            Slow.explained += 1
            now[0] += 0.9
            return super().explain(sql)

    class Line:
        id, query, calls, seconds = "q", SCAN, 100, 9.0

    advisor = Advisor(Slow(keywords), lambda: [Line()] * 40, clock=lambda: now[0])  # type: ignore[list-item]
    assert len(advisor.recommend()) >= 1
    assert Slow.explained == 3


def test_while_one_thread_looks_the_others_get_what_was_kept(keywords) -> None:
    looking, go_on = threading.Event(), threading.Event()

    def workload() -> list[object]:
        looking.set()
        assert go_on.wait(10)
        return []

    advisor = Advisor(SQLitePlanner(keywords), workload)  # type: ignore[arg-type]
    thread = threading.Thread(target=advisor.recommend)
    thread.start()
    assert looking.wait(10)
    assert advisor.recommend() == ()  # not waiting
    advisor.abandon()  # as a forked child would: the other thread's lock is never released there
    go_on.set()
    assert advisor.recommend(force=True) == ()
    thread.join()


def test_applying_builds_the_index_once(bench) -> None:
    bench.run(SCAN)
    (advice,) = bench.advisor.recommend()
    bench.advisor.apply(advice.id)
    with closing(sqlite3.connect(bench.path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql = ?", (advice.sql,))
        assert names.fetchall() == [("ix_keyword_word",)]
    with pytest.raises(AdviceError, match="no index advice") as caught:
        bench.advisor.apply(advice.id)
    assert caught.value.hint


def test_advice_can_be_applied_by_a_process_that_did_not_show_it(bench) -> None:
    bench.run(SCAN)
    (advice,) = bench.advisor.recommend()
    other = Advisor(SQLitePlanner(bench.path), lambda: bench.lines)
    other.apply(advice.id)
    assert bench.advisor.recommend(force=True) == ()


def test_statements_that_can_not_be_explained_or_read_cost_nobody_else_advice(bench) -> None:
    bench.run(
        "SELECT * FROM nowhere WHERE x = ?",
        "SELECT app_function(word) FROM keyword",
        "SELECT * FROM keyword WHERE word = " + "(" * 70 + "?" + ")" * 70,
        "SELECT '\udcff'",
        "SELECT (((",
        "INSERT INTO keyword SELECT * FROM keyword",
        "PRAGMA integrity_check",
        "",
        SCAN,
    )
    assert [each.query_ids for each in bench.advisor.recommend()] == [("q8",)]


def test_a_database_that_can_not_be_read_is_a_clear_error(bench) -> None:
    bench.run(SCAN)
    bench.path.unlink()
    with pytest.raises(DatabaseUnavailable):
        bench.advisor.recommend()
    assert bench.advisor.explained(SCAN)[0].startswith("not explainable: ")
    assert bench.advisor.why_not(SCAN).startswith("Not explainable: ")


def test_a_plan_is_explained_line_by_line_with_what_no_index_helps(bench) -> None:
    assert bench.advisor.explained("SELECT * FROM keyword WHERE word LIKE ? AND lang = ? ORDER BY freq") == (
        "reads all ~120,000 rows of keyword; no index helps `word LIKE ?`, `lang = ?`",
        "sorts in a temporary B-tree",
    )
    assert bench.advisor.explained("SELECT * FROM keyword") == ("reads all ~120,000 rows of keyword",)
    assert bench.advisor.explained("SELECT * FROM keyword k WHERE k.id = ?") == (
        "finds rows of keyword by rowid (rowid = ?)",
    )
    assert bench.advisor.explained("SELECT nowhere") == ("not explainable: no such column: nowhere",)


def test_a_plan_can_be_asked_for_with_values(bench) -> None:
    assert bench.advisor.explain(SCAN, ("w1",)).steps[0].table == "keyword"
    assert bench.advisor.explain("SELECT :x", {"x": 1}).steps[0].reading == "reads no table"


def test_the_planner_satisfies_the_protocol(keywords) -> None:
    planner: Planner = SQLitePlanner(keywords)
    assert planner.tables()["language"].rows == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gives_the_same_advice(bench) -> None:
    bench.run(SCAN)
    (advice,) = bench.advisor.recommend()
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            bench.advisor.abandon()
            os.write(writable, bench.advisor.recommend(force=True)[0].id.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        assert pipe.read().decode() == advice.id
