"""Files: how they are tuned, what of them stays the app's own, and which cannot be opened."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.errors import DatabaseUnavailable


def pragma(connection: sqlite3.Connection, name: str) -> Any:
    cursor = sqlite3.Cursor(connection)
    return cursor.execute(f"PRAGMA {name}").fetchone()[0]


# --- 15, 16, 17: settings of the file


def test_the_file_keeps_what_is_the_apps_to_decide(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.executescript(
            "PRAGMA page_size=1024; PRAGMA auto_vacuum=2; PRAGMA encoding='UTF-16le'; PRAGMA user_version=7;"
            "PRAGMA application_id=9; CREATE TABLE t (a);"
        )
    dbopt = DBOptimizer(make_app(), database=path)
    with dbopt.borrow() as c:
        found = {
            name: pragma(c, name)
            for name in ("page_size", "auto_vacuum", "encoding", "user_version", "application_id", "foreign_keys")
        }
        assert found == {
            "page_size": 1024,
            "auto_vacuum": 2,
            "encoding": "UTF-16le",
            "user_version": 7,
            "application_id": 9,
            "foreign_keys": 0,
        }
        assert c.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]


def test_every_connection_is_tuned_and_says_so(dbopt: DBOptimizer) -> None:
    with dbopt.borrow() as one_, dbopt.borrow() as other:
        for c in (one_, other):
            names = ("journal_mode", "synchronous", "cache_size", "temp_store", "mmap_size", "busy_timeout")
            assert [pragma(c, name) for name in names] == ["wal", 1, -10000, 2, 268435456, 5000]


def test_a_file_made_by_the_app_is_tuned_once_it_has_content(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    dbopt = DBOptimizer(make_app(), database=tmp_path / "new.db")
    with dbopt.borrow() as c:
        c.execute("PRAGMA page_size = 8192")
        c.execute("CREATE TABLE t (a)")
        assert pragma(c, "journal_mode") == "delete"
        assert pragma(c, "synchronous") == 2, "NORMAL is safe only in WAL mode"
    del c
    with dbopt.borrow() as c:
        assert (pragma(c, "page_size"), pragma(c, "journal_mode"), pragma(c, "synchronous")) == (8192, "wal", 1)


def test_a_pragma_set_to_none_is_left_alone(make_app: Callable[..., Flask], path: Path) -> None:
    app = make_app(DBOPT_DATABASE=str(path), DBOPT_SQLITE_PRAGMAS={"journal_mode": None, "cache_size": -5})
    with DBOptimizer(app).borrow() as c:
        assert pragma(c, "journal_mode") == "delete"
        assert pragma(c, "cache_size") == -5


def test_a_journal_mode_that_the_app_sets_stays(make_app: Callable[..., Flask], path: Path) -> None:
    app = make_app(DBOPT_DATABASE=str(path), DBOPT_SQLITE_PRAGMAS={"journal_mode": "TRUNCATE"})
    dbopt = DBOptimizer(app)
    for _ in range(2):
        with dbopt.borrow() as c:
            assert (pragma(c, "journal_mode"), pragma(c, "synchronous")) == ("truncate", 2)


def test_a_lock_while_tuning_is_no_failure(dbopt: DBOptimizer, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with dbopt.borrow() as c:
            assert any("locked" in told for told in dbopt.optimizer.notices())
            c.execute("PRAGMA busy_timeout = 0")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                c.execute("SELECT * FROM note")
        del c
        holder.rollback()
    for _ in range(2):
        with dbopt.borrow() as c:
            assert c.execute("SELECT count(*) FROM note").fetchone() == (0,)
        del c
    with dbopt.borrow() as c:
        assert pragma(c, "journal_mode") == "wal"
    assert not [told for told in dbopt.optimizer.notices() if "PRAGMA" in told]


def test_a_view_that_calls_a_function_of_the_apps_works(dbopt: DBOptimizer) -> None:
    """And is never kept: no other connection could know what the function does."""
    for shift in (1, 2, 3, 4, 5):
        with dbopt.borrow() as c:
            c.create_function("shift", 1, lambda n, shift=shift: n + shift)
            c.execute("CREATE VIEW IF NOT EXISTS shifted AS SELECT max(shift(id)) AS id FROM keyword")
            assert c.execute("SELECT id FROM shifted").fetchall() == [(3000 + shift,)]
            assert dbopt.advisor.explain("SELECT id FROM shifted").problem
    assert dbopt.cache.stats().hits == 0


# --- what cannot be opened


def test_a_directory_is_told_from_a_database(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    dbopt = DBOptimizer(make_app(), database=tmp_path)
    with pytest.raises(DatabaseUnavailable, match=r"unable to open database file \(.* is a directory"):
        dbopt.connect()


def test_a_missing_folder_is_named(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    dbopt = DBOptimizer(make_app(), database=tmp_path / "no" / "app.db")
    with pytest.raises(sqlite3.OperationalError, match=r"the folder .* does not exist; create it first"):
        dbopt.connect()


def test_a_file_that_is_no_database_is_told(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is a text, and a long one. " * 100)
    dbopt = DBOptimizer(make_app(), database=tmp_path / "text.db")
    with pytest.raises(sqlite3.DatabaseError, match=r"file is not a database .* holds something else"):
        dbopt.connect()
    assert dbopt.pool.stats().connections_errors == 1


def test_a_file_that_may_not_be_read_is_told(
    make_app: Callable[..., Flask], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dbopt = DBOptimizer(make_app(), database=path)
    real = sqlite3.connect

    def refused(place: Any, *arguments: Any, **keywords: Any) -> Any:
        if str(place) == str(path):
            raise sqlite3.OperationalError("unable to open database file")
        return real(place, *arguments, **keywords)

    monkeypatch.setattr(sqlite3, "connect", refused)
    monkeypatch.setattr(os, "access", lambda place, how: False)
    with pytest.raises(DatabaseUnavailable, match="may not be read by this user"):
        dbopt.connect()
    path.unlink()
    with pytest.raises(DatabaseUnavailable, match=r"does not exist and .* may not be written"):
        dbopt.connect()


def test_a_damaged_file_is_told(dbopt: DBOptimizer, path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 400)
    with pytest.raises(sqlite3.DatabaseError, match=r"malformed .* restore brings back the last backup"):
        dbopt.connect().execute("SELECT * FROM keyword")
