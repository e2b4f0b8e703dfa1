"""A ledger of an earlier version is upgraded where it is; one of a later version is never touched."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from flask_dbopt.monitor import schema
from flask_dbopt.monitor.histogram import pack
from flask_dbopt.monitor.sums import identify

VERSION_1 = """
CREATE TABLE statement (
    id TEXT PRIMARY KEY, query TEXT NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL,
    place TEXT, endpoints TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE query_slot (
    resolution INTEGER, start INTEGER, statement TEXT,
    calls INTEGER NOT NULL, rows INTEGER NOT NULL, errors INTEGER NOT NULL, cache_hits INTEGER NOT NULL,
    seconds REAL NOT NULL, squares REAL NOT NULL, least REAL NOT NULL, most REAL NOT NULL,
    histogram BLOB NOT NULL, PRIMARY KEY (resolution, start, statement)
) WITHOUT ROWID;
CREATE TABLE endpoint_slot (
    resolution INTEGER, start INTEGER, endpoint TEXT,
    calls INTEGER NOT NULL, errors INTEGER NOT NULL, queries INTEGER NOT NULL,
    cache_hits INTEGER NOT NULL, seconds REAL NOT NULL, database REAL NOT NULL,
    histogram BLOB NOT NULL, PRIMARY KEY (resolution, start, endpoint)
) WITHOUT ROWID;
CREATE TABLE counter_slot (
    resolution INTEGER, start INTEGER, name TEXT, amount REAL NOT NULL,
    PRIMARY KEY (resolution, start, name)
) WITHOUT ROWID;
CREATE TABLE worker (
    id TEXT PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, started REAL NOT NULL,
    heartbeat REAL NOT NULL, gauges TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE alert (
    rule TEXT, subject TEXT, message TEXT NOT NULL, value REAL NOT NULL, threshold REAL NOT NULL,
    raised_at REAL, resolved_at REAL, PRIMARY KEY (rule, subject, raised_at)
) WITHOUT ROWID;
CREATE TABLE mark (name TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
SQL = "SELECT * FROM word WHERE id = ?"


@pytest.fixture
def former(path, clock):
    """A ledger as version 1 left it."""
    path.parent.mkdir(parents=True)
    start = int(clock.now // 10) * 10
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(VERSION_1 + f"PRAGMA application_id = {schema.APPLICATION}")
        connection.execute(
            "INSERT INTO statement VALUES (?, ?, ?, ?, NULL, '[\"search\"]')",
            (identify(SQL), SQL, clock.now - 60, clock.now),
        )
        slot = {"start": start, "id": identify(SQL), "times": pack({1000: 7})}
        connection.execute(
            "INSERT INTO query_slot VALUES (10, :start, :id, 7, 70, 1, 0, 0.7, 0.07, 0.1, 0.1, :times)", slot
        )
        connection.execute(
            "INSERT INTO endpoint_slot VALUES (10, :start, 'search', 7, 1, 7, 0, 1.4, 0.7, :times)", slot
        )
        connection.execute("INSERT INTO counter_slot VALUES (10, ?, 'shouts', 3)", (start,))
        connection.execute("INSERT INTO worker VALUES ('w', 1, 'here', 0, 0, '{}')")
        connection.execute("INSERT INTO alert VALUES ('leak', 'x', 'm', 1, 1, ?, NULL)", (clock.now,))
        connection.commit()
    return path


def test_a_ledger_of_version_1_keeps_its_figures_and_takes_new_ones(build, serve, clock, former):
    monitor = build()
    serve(monitor, "search", (SQL, 0.1, 10, None, False), (SQL, 0.1, 10, None, False))
    monitor.sweep(clock.now)
    (row,) = build().queries()
    assert (row.calls, row.rows, row.errors, row.database, row.endpoints) == (9, 90, 1, "default", ("search",))
    (endpoint,) = build().endpoints()
    assert (endpoint.calls, endpoint.queries, endpoint.repeated) == (8, 9, 1)
    assert monitor.counters()["shouts"] == 3
    assert [alert.rule for alert in monitor.alerts()] == ["leak"]
    assert len(monitor.workers()) == 1
    assert monitor.notices() == []
    assert list(former.parent.glob("*broken*")) == []
    with closing(sqlite3.connect(former)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        made = sqlite3.connect(":memory:")
        made.executescript(schema.TABLES)
        tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table'"
        assert connection.execute(tables).fetchone() == made.execute(tables).fetchone()
        made.close()


def test_workers_that_upgrade_at_once_do_it_once(build, serve, clock, former):
    workers = [build() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert [rows[0].calls for rows in pool.map(lambda monitor: monitor.queries(), workers)] == [7] * 4
    for monitor in workers:
        serve(monitor, "search", (SQL, 0.1))
        monitor.sweep(clock.now)
    assert build().queries()[0].calls == 11


def test_a_ledger_of_version_1_that_is_not_whole_is_set_aside(build, serve, clock, former):
    with closing(sqlite3.connect(former)) as connection:
        connection.execute("DROP TABLE endpoint_slot")
    monitor = build()
    serve(monitor, "search", (SQL, 0.1))
    monitor.sweep(clock.now)
    assert build().queries()[0].calls == 1
    assert "was set aside" in monitor.notices()[0]


def test_a_ledger_that_a_newer_version_upgraded_under_our_hands_is_left_to_it(build, serve, clock, path):
    monitor = build()
    serve(monitor, "search", (SQL, 0.1))
    monitor.sweep(clock.now)
    with closing(sqlite3.connect(path)) as connection:  # as a deploy does while the old workers still run
        connection.execute("ALTER TABLE statement ADD COLUMN more TEXT")
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    serve(monitor, "search", (SQL, 0.1))
    monitor.sweep(clock.now)
    assert list(path.parent.glob("*broken*")) == []
    assert "newer version of Flask-DBOpt" in monitor.notices()[0]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT sum(calls) FROM query_slot").fetchone() == (1,)
    assert monitor.queries()[0].calls == 1, "its own, in memory"
