"""The lost-update watch decides: which records make a transaction, and which transactions have met."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.engines.protocol import Footprint
from flask_dbopt.engines.sqlite.watcher import SQLiteWatcher
from flask_dbopt.monitor import lost_updates
from flask_dbopt.monitor.lost_updates import Commit, Watch
from flask_dbopt.monitor.request import Record
from flask_dbopt.monitor.transactions import MOST_READS, Reader, Transaction

READ, WRITE = "SELECT n FROM t", "UPDATE t SET n = ?"
WITHIN = "WITH new(n) AS (SELECT 1) UPDATE t SET n = (SELECT n FROM new)"


class Sight:
    def __init__(self, watcher: SQLiteWatcher) -> None:
        self._watcher = watcher
        self.asked: list[str] = []
        self.commits_by_itself = False

    def footprint(self, database: str, sql: str) -> Footprint | None:
        self.asked.append(sql)
        return self._watcher.footprint(sql)

    def autocommits(self, database: str) -> bool:
        return self.commits_by_itself


@pytest.fixture
def sight(tmp_path: Path) -> Iterator[Sight]:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY, n); CREATE TABLE u (n); CREATE TABLE log (n)")
    watcher = SQLiteWatcher(path)
    yield Sight(watcher)
    watcher.close()


class Timer:
    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timer() -> Timer:
    return Timer()


def records_of(*statements: Any, start: float = 1000.0, database: str = "default") -> list[Record]:
    """A record of each, a second apart: a text, or (text, rows, error). A script counts no rows, a write one."""
    records: list[Record] = []
    for number, each in enumerate(statements):
        if isinstance(each, str):
            each = (each, 1 if each.startswith(("UPDATE", "INSERT", "DELETE")) else -1, None)
        sql, rows, error = each
        records.append([sql, 0.5, rows, error, False, start + number, database])
    return records


@pytest.fixture
def read(sight: Sight) -> Callable[..., list[Transaction]]:
    return lambda *statements: list(Reader(sight).transactions(records_of(*statements)))


def found(transactions: list[Transaction]) -> list[tuple[set[str], set[str]]]:
    """What each wrote, and what of it was stale."""
    return [(set(one.tables), {stale.table for stale in one.stale}) for one in transactions]


T, U = {"t"}, {"u"}
NONE: set[str] = set()


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([READ, WRITE, "COMMIT"], [(T, T)]),
        ([READ, WRITE, "commit;"], [(T, T)]),
        ([READ, WRITE, "End Transaction"], [(T, T)]),
        ([WRITE, READ, "COMMIT"], [(T, NONE)]),
        ([READ, "INSERT INTO u VALUES (1)", WRITE, "COMMIT"], [(T | U, T)]),
        ([READ, "-- why\nUPDATE t SET n = 2", "COMMIT"], []),
        ([READ, ("-- why\nUPDATE t SET n = 2", 1, None), "COMMIT"], [(T, T)]),
        # one piece of work, several transactions: each begins anew
        ([READ, WRITE, "COMMIT", WRITE, "COMMIT"], [(T, T), (T, NONE)]),
        ([READ, "UPDATE u SET n = 1", "COMMIT", WRITE, "COMMIT"], [(U, NONE), (T, NONE)]),
        ([READ, "BEGIN", "SELECT n FROM u", "COMMIT", WRITE, "COMMIT"], [(T, NONE)]),
        # read within the transaction: nobody can have changed it
        (["BEGIN", READ, WRITE, "COMMIT"], [(T, NONE)]),
        ([READ, "BEGIN IMMEDIATE", WRITE, "COMMIT"], [(T, T)]),
        (["SELECT n FROM t WHERE n > 1", "BEGIN IMMEDIATE", READ, WRITE, "COMMIT"], [(T, NONE)]),
        ([READ, "UPDATE u SET n = 1", READ, WRITE, "COMMIT"], [(T | U, NONE)]),
        # nothing was written, or it was taken back
        ([READ, (WRITE, 0, None), "COMMIT"], []),
        ([READ, WRITE], []),
        ([READ, WRITE, "ROLLBACK", "UPDATE u SET n = 1", "COMMIT"], [(U, NONE)]),
        ([READ, WRITE, ("COMMIT", -1, "OperationalError"), "COMMIT"], []),
        (
            [READ, WRITE, ("INSERT INTO u VALUES (1)", -1, "IntegrityError"), "UPDATE u SET n = 1", "COMMIT"],
            [(U, NONE)],
        ),
        ([READ, WRITE, "ROLLBACK TO SAVEPOINT a", "UPDATE u SET n = 1", "COMMIT"], [(U, NONE)]),
        ([READ, (READ, -1, "OperationalError"), WRITE, "COMMIT"], [(T, T)]),
        # WITH begins no transaction, so that outside of one it is committed by itself
        ([READ, WITHIN, "COMMIT"], []),
        ([READ, "BEGIN", WITHIN, "COMMIT"], [(T, T)]),
        ([READ, "UPDATE u SET n = 1", WITHIN, "COMMIT"], [(T | U, T)]),
        # a savepoint outside a transaction begins one, and its release ends it without a word
        (["SAVEPOINT a", READ, WRITE, "RELEASE a", "UPDATE u SET n = 1", "COMMIT"], []),
        (["SAVEPOINT a", WRITE, "COMMIT", "UPDATE u SET n = 1", "COMMIT"], [(U, NONE)]),
        ([READ, "BEGIN", "SAVEPOINT a", WRITE, "RELEASE a", "COMMIT"], [(T, T)]),
        # scripts, schema and settings: who knows what they end
        ([READ, WRITE, (WRITE, -1, None), "UPDATE u SET n = 1", "COMMIT"], [(U, NONE)]),
        ([READ, WRITE, "CREATE TABLE v (n)", "COMMIT"], []),
        ([READ, "PRAGMA foreign_keys = ON", WRITE, "COMMIT"], [(T, NONE)]),
        ([READ, WRITE, "BEGIN; UPDATE u SET n = 1; COMMIT", "COMMIT"], []),
        ([READ, WRITE, "SELECT 1; DELETE FROM t", "COMMIT"], []),
        ([READ, ("DELETE FROM nowhere", 1, None), WRITE, "COMMIT"], [(T, NONE)]),
        ([READ, "EXPLAIN DELETE FROM t", "SELECT unknown(n) FROM t", WRITE, "COMMIT"], [(T, T)]),
        ([READ, "", WRITE, "COMMIT"], [(T, NONE)]),
    ],
)
def test_records_make_transactions(read, statements, expected):
    assert found(read(*statements)) == expected


def test_the_earliest_of_the_last_reads_counts(read):
    (one,) = read(READ, "SELECT n FROM t WHERE id = 1", READ, WRITE, "COMMIT")
    (stale,) = one.stale
    assert (stale.read, stale.read_at, stale.write) == ("SELECT n FROM t WHERE id = 1", 1001.5, WRITE)
    assert (one.locked_at, one.committed_at) == (1003.5, 1004.0)


def test_databases_are_apart(sight):
    mixed = [
        *records_of(READ, WRITE, database="a"),
        *records_of(WRITE, "COMMIT", start=1010.0, database="b"),
        *records_of("COMMIT", start=1020.0, database="a"),
    ]
    assert [(one.database, len(one.stale)) for one in Reader(sight).transactions(mixed)] == [("b", 0), ("a", 1)]


def test_a_record_without_its_time_tells_nothing(sight):
    records = records_of(READ, WRITE, "COMMIT")
    records[1][5] = 0.0
    assert list(Reader(sight).transactions(records)) == []


def test_only_so_many_reads_are_remembered(read):
    many = [f"SELECT n FROM u WHERE n = {number}" for number in range(MOST_READS)]
    assert found(read(READ, *many, WRITE, "COMMIT")) == [(T, NONE)]
    assert found(read(*many, READ, WRITE, "COMMIT")) == [(T, T)]


def test_where_connections_commit_by_themselves_only_what_said_begin_counts(read, sight):
    sight.commits_by_itself = True
    assert found(read(READ, WRITE, "COMMIT")) == []
    assert found(read(READ, "BEGIN", WRITE, "COMMIT")) == [(T, T)]


def test_a_text_is_seen_through_once_and_a_very_long_one_each_time(sight):
    reader = Reader(sight)
    long = f"SELECT n FROM t WHERE n IN ({', '.join(['1'] * 5_000)})"
    for _ in range(3):
        list(reader.transactions(records_of(READ, long, "COMMIT")))
    assert (sight.asked.count(READ), sight.asked.count(long)) == (1, 3)
    list(reader.transactions(records_of(*(f"SELECT {number} FROM t" for number in range(2_100)))))
    list(reader.transactions(records_of(READ)))
    assert sight.asked.count(READ) == 2, "what is remembered is bounded"


# --- the watch ---


@pytest.fixture
def watch(sight: Sight, timer: Timer) -> Watch:
    watch = Watch(timer)
    watch.sight = sight
    return watch


def at(*moments: float) -> list[Record]:
    """A request that reads, writes and commits at these moments."""
    records = records_of(READ, WRITE, "COMMIT")
    for record, moment in zip(records, moments, strict=True):
        record[1], record[5] = 0.1, moment
    return records


MINE = (1.0, 5.0, 6.0)


@pytest.mark.parametrize(
    ("committed", "is_lost"),
    [(1.05, False), (1.2, True), (4.9, True), (5.05, True), (5.2, False)],
    ids=["while-reading", "after-reading", "before-writing", "while-waiting-to-write", "after-writing"],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_commit_counts_between_the_end_of_the_read_and_the_lock(watch, committed, is_lost, is_first):
    other = at(committed - 0.02, committed - 0.01, committed)[1:]
    both = [(at(*MINE), "mine"), (other, "other")]
    for records, endpoint in both if is_first else reversed(both):
        watch.offer(records, endpoint)
        early = watch.judge()
        if early:
            break
    lost = [(one.endpoint, one.other, one.table) for one in early or watch.judge()]
    assert lost == ([("mine", "other", "t")] if is_lost else [])
    assert watch.judge() == [], "it is told once"


def test_what_was_told_by_another_process_counts_alike(watch, timer):
    watch.offer(at(*MINE), "mine")
    assert watch.judge() == []
    assert watch.is_waiting
    told = [Commit("default", "u", 2.0, "other"), Commit("elsewhere", "t", 2.0, "other")]
    watch.hear(told)
    assert watch.judge() == []
    watch.hear([Commit("default", "t", 2.0, "other")] * 2)
    assert [one.other for one in watch.judge()] == ["other"]
    assert not watch.is_waiting


def test_who_waits_is_forgotten_after_a_while_and_commits_are_too(watch, timer):
    watch.offer(at(*MINE), "mine")
    watch.judge()
    timer.now += lost_updates.WAIT
    watch.judge()
    assert not watch.is_waiting
    watch.hear([Commit("default", "t", 2.0, "other")])
    timer.now += lost_updates.KEPT
    watch.judge()
    watch.offer(at(*MINE), "mine")
    assert watch.judge() == []


def test_a_worker_tells_its_latest_commits_when_there_are_new_ones(watch, timer):
    assert watch.news() is None
    watch.offer(at(*MINE), "mine")
    watch.look()
    assert watch.news() == [Commit("default", "t", 6.0, "mine")]
    assert watch.news() is None
    timer.now = 100.0
    watch.offer(at(91.0, 95.0, 96.0), "mine")
    watch.look()
    assert watch.news() == [Commit("default", "t", 96.0, "mine")]


def test_work_outside_requests_changes_but_is_not_judged(watch):
    watch.offer(at(*MINE), "", is_request=False)
    watch.offer(at(2.0, 2.1, 2.2)[1:], "", is_request=False)
    assert watch.judge() == []
    watch.offer(at(1.0, 7.0, 8.0), "mine")
    assert [one.other for one in watch.judge()] == [""]


def test_memory_is_bounded(watch, timer, monkeypatch):
    monkeypatch.setattr(lost_updates, "MOST_RECORDS", 4)
    watch.offer(at(*MINE), "mine")
    watch.offer(at(2.0, 2.1, 2.2), "left out")
    assert watch.judge() == []
    monkeypatch.setattr(lost_updates, "MOST_COMMITS", 3)
    watch.hear([Commit("default", "t", 2.0 + number, "other") for number in range(10)])
    watch.offer(at(1.0, 7.5, 8.5), "mine")
    assert watch.judge() == [], "the commits of that time are forgotten"


def test_nobody_to_see_through_statements_nothing_to_watch(timer):
    watch = Watch(timer)
    watch.offer(at(*MINE), "mine")
    watch.hear([Commit("default", "t", 2.0, "other")])
    assert watch.judge() == []


def test_a_forked_child_starts_with_nothing(watch):
    watch.offer(at(*MINE), "mine")
    watch.judge()
    watch.abandon()
    watch.hear([Commit("default", "t", 2.0, "other")])
    assert (watch.judge(), watch.news(), watch.is_waiting) == ([], None, False)


def test_a_changed_schema_is_seen_after_a_while(watch, timer, sight):
    watch.offer(at(*MINE), "mine")
    watch.look()
    timer.now += lost_updates.LOOK_AGAIN
    watch.offer(at(*MINE), "mine")
    watch.look()
    assert sight.asked.count(WRITE) == 2
