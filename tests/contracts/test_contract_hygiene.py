"""Nothing of one borrower reaches the next, and nothing stays when a file or an app goes."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer


def pragma(connection: sqlite3.Connection, name: str) -> Any:
    cursor = sqlite3.Cursor(connection)
    return cursor.execute(f"PRAGMA {name}").fetchone()[0]


# --- 10: hygiene


@pytest.mark.parametrize(
    ("change", "look"),
    [
        (lambda c: c.execute("PRAGMA foreign_keys = ON"), lambda c: pragma(c, "foreign_keys")),
        (lambda c: c.execute("PRAGMA main . cache_size=-123"), lambda c: pragma(c, "cache_size")),
        (lambda c: c.execute('pragma "cache_size" (-77)'), lambda c: pragma(c, "cache_size")),
        (lambda c: c.execute("PRAGMA/**/cache_size/**/=/**/-55"), lambda c: pragma(c, "cache_size")),
        (lambda c: c.execute("PRAGMA query_only = 1"), lambda c: pragma(c, "query_only")),
        (lambda c: c.execute("PRAGMA busy_timeout = 3"), lambda c: pragma(c, "busy_timeout")),
        (lambda c: c.executescript("SELECT 1; PRAGMA synchronous = OFF"), lambda c: pragma(c, "synchronous")),
        (lambda c: c.executescript("VALUES (1); CREATE TEMP TABLE t (a)"), lambda c: tables(c)),
        (lambda c: c.executescript("INSERT INTO note VALUES (1, 2); PRAGMA temp_store = 1"), lambda c: tables(c)),
        (lambda c: c.execute("CREATE TABLE temp.t (a)"), lambda c: tables(c)),
        (lambda c: c.execute("CREATE TEMPORARY VIEW t AS SELECT 1"), lambda c: tables(c)),
        (lambda c: c.execute("ATTACH ':memory:' AS more"), lambda c: c.execute("PRAGMA database_list").fetchall()),
        (lambda c: c.execute("SELECT 1; ATTACH ':memory:' AS more"), lambda c: tables(c)),
        (lambda c: c.create_function("lower", 1, lambda text: "mine"), lambda c: one(c, "SELECT lower('A')")),
        (lambda c: c.create_function("f", 0, lambda: 1), lambda c: one(c, "SELECT f()")),
        (lambda c: c.create_collation("NOCASE", lambda a, b: 0), lambda c: one(c, "SELECT 'a' = 'b' COLLATE NOCASE")),
        (lambda c: c.create_collation("odd", lambda a, b: 0), lambda c: one(c, "SELECT 'a' = 'b' COLLATE odd")),
        (lambda c: setattr(c, "isolation_level", None), lambda c: c.isolation_level),
        (lambda c: setattr(c, "row_factory", sqlite3.Row), lambda c: c.row_factory),
        (lambda c: setattr(c, "text_factory", bytes), lambda c: c.text_factory),
        (
            lambda c: c.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 50),
            lambda c: c.getlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH),
        ),
        (lambda c: c.set_authorizer(lambda *a: sqlite3.SQLITE_DENY), lambda c: one(c, "SELECT word FROM keyword")),
        (lambda c: c.set_progress_handler(lambda: 1, 1), lambda c: one(c, "SELECT count(*) FROM keyword")),
        (lambda c: c.execute("BEGIN IMMEDIATE"), lambda c: c.in_transaction),
    ],
)
def test_nothing_that_one_borrower_changes_reaches_the_next(
    dbopt: DBOptimizer, change: Callable[[Any], Any], look: Callable[[Any], Any]
) -> None:
    with dbopt.borrow() as c:
        expected = told(look, c)
    for row_factory in (None, sqlite3.Row, lambda cursor, row: {"only": row}, lambda cursor, row: 1 / 0):
        with dbopt.borrow() as c:
            c.row_factory = row_factory
            told(change, c)
        del c
        with dbopt.borrow() as c:
            assert told(look, c) == expected
        del c


def told(look: Callable[[Any], Any], c: sqlite3.Connection) -> Any:
    try:
        return look(c)
    except (sqlite3.Error, sqlite3.Warning, ZeroDivisionError) as error:
        return str(error)


def one(c: sqlite3.Connection, sql: str) -> Any:
    return c.execute(sql).fetchone()[0]


def tables(c: sqlite3.Connection) -> list[Any]:
    return c.execute("SELECT name FROM temp.sqlite_master").fetchall()


@pytest.mark.parametrize("change", ["PRAGMA foreign_keys = ON", "PRAGMA cache_size = -123", "PRAGMA table_info(note)"])
def test_what_can_be_undone_costs_no_connection(dbopt: DBOptimizer, change: str) -> None:
    for _ in range(3):
        with dbopt.borrow() as c:
            c.row_factory = sqlite3.Row
            c.execute(change).fetchall()
        del c
    assert dbopt.pool.stats().connections_num == 1


def test_a_column_called_temp_costs_no_connection(dbopt: DBOptimizer) -> None:
    with dbopt.borrow() as c:
        c.execute("CREATE TABLE weather (place, 'temp')")
    opened = dbopt.pool.stats().connections_num
    for _ in range(3):
        with dbopt.borrow() as c:
            c.execute("INSERT INTO weather (place, temp) VALUES ('here', 21);")
            c.execute("UPDATE weather SET temp = 20")
            c.commit()
        del c
    assert dbopt.pool.stats().connections_num <= opened + 1


def test_connections_opened_with_other_arguments_are_other_connections(dbopt: DBOptimizer) -> None:
    with contextlib.closing(dbopt.connect(isolation_level=None)) as c:
        assert c.isolation_level is None
    with contextlib.closing(dbopt.connect()) as c:
        assert c.isolation_level == ""
    with contextlib.closing(dbopt.connect(timeout=0.2)) as c:
        assert pragma(c, "busy_timeout") == 200


# --- 11: which file


def test_a_file_that_was_replaced_is_opened_anew(
    descriptors: Callable[[Path], list[str]], dbopt: DBOptimizer, path: Path, tmp_path: Path
) -> None:
    with dbopt.borrow() as c:
        c.execute("SELECT count(*) FROM keyword").fetchone()
    del c
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as plain:
        plain.executescript("CREATE TABLE keyword (a); INSERT INTO keyword VALUES ('other')")
    for companion in path.parent.glob("app.db-*"):
        companion.unlink()
    other.replace(path)
    with dbopt.borrow() as c:
        assert c.execute("SELECT * FROM keyword").fetchall() == [("other",)]
    del c
    assert not [link for link in descriptors(path) if "deleted" in link]


def test_a_file_that_was_deleted_is_made_anew_as_the_driver_would(dbopt: DBOptimizer, path: Path) -> None:
    with dbopt.borrow() as c:
        c.execute("SELECT 1")
    del c
    for each in path.parent.glob("app.db*"):
        each.unlink()
    with dbopt.borrow() as c, pytest.raises(sqlite3.OperationalError, match="no such table"):
        c.execute("SELECT * FROM keyword")


def test_after_a_tests_context_the_file_can_be_removed_without_a_trace(
    descriptors: Callable[[Path], list[str]], site: Flask, dbopt: DBOptimizer, path: Path
) -> None:
    database = site.extensions["dbopt"].default
    database.road.notable = database.shelf.worth = 0.0
    for _ in range(2):
        with site.app_context():
            for _ in range(4):
                with dbopt.borrow() as c:
                    c.execute("SELECT language, count(*) FROM keyword GROUP BY 1").fetchall()
            dbopt.connection.execute("SELECT 1")
        assert descriptors(path) == []
        assert [each.name for each in path.parent.glob("app.db*")] == ["app.db"]
    path.unlink()
    site.extensions["dbopt"].housekeeper.run_due(1e9)
    site.extensions["dbopt"].close()
    assert list(path.parent.glob("app.db*")) == []
    assert descriptors(path) == []


# --- 14: nothing stays


def test_many_connections_leave_no_warning_and_no_descriptor(
    descriptors: Callable[[Path], list[str]], site: Flask, dbopt: DBOptimizer, path: Path
) -> None:
    before = len(descriptors(Path("/")))
    kept = [dbopt.connect() for _ in range(10)]
    gone = [weakref.ref(each) for each in kept]
    for each in kept:
        each.execute("SELECT 1").close()
        each.close()
    del kept, each
    site.extensions["dbopt"].close()
    gc.collect()
    assert len(descriptors(Path("/"))) <= before
    assert [each for each in gone if each() is not None] == []


def test_an_app_that_is_only_made_and_closed_leaves_nothing_on_disk(tmp_path: Path) -> None:
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    DBOptimizer(app, database=tmp_path / "shop.db", log_dir="logs")
    app.extensions["dbopt"].close()
    assert list(tmp_path.iterdir()) == []


def test_a_connection_given_back_after_the_end_is_closed(
    descriptors: Callable[[Path], list[str]], site: Flask, dbopt: DBOptimizer, path: Path
) -> None:
    c = dbopt.connect()
    site.extensions["dbopt"].close()
    assert c.execute("SELECT 1").fetchone() == (1,)
    c.close()
    assert descriptors(path) == []
