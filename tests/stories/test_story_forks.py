"""A process that forks after it used its database: parent and child must respect each other's locks."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

from flask_dbopt import DBOptimizer


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode=WAL; CREATE TABLE word (text); INSERT INTO word VALUES ('one')")
    connection.close()
    app = Flask("forks", instance_path=str(tmp_path / "instance"))
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{path}"
    app.extensions["db"] = SQLAlchemy(app)
    app.extensions["ours"] = DBOptimizer(app)
    yield app
    app.extensions["dbopt"].close()
    with app.app_context():
        app.extensions["db"].engine.dispose()


def in_child(deed: Callable[[], None], last: Callable[[], None] = lambda: None) -> Callable[[], None]:
    """Fork, run ``deed`` there and wait for it; what is returned has the child do ``last`` and end, and checks it."""
    done, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            deed()
            os.write(done[1], b"x")
            os.read(go[0], 1)
            last()
            status = 0
        finally:
            os._exit(status)
    os.close(done[1])
    assert os.read(done[0], 1) == b"x", "the child failed"

    def end() -> None:
        os.write(go[1], b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for descriptor in (done[0], *go):
            os.close(descriptor)

    return end


def use_everything(app: Flask) -> None:
    """Leave idle handles of every kind behind: pool, cache watcher, ledger, SQLAlchemy."""
    dbopt = app.extensions["ours"]
    with app.app_context():
        app.extensions["db"].session.execute(text("SELECT * FROM word")).fetchall()
    with dbopt.borrow() as connection:
        connection.execute("SELECT * FROM word").fetchall()
    dbopt.optimizer.default.watcher.token()
    dbopt.monitor.flush()


def try_to_write(path: str) -> str:
    connection = sqlite3.connect(path, timeout=0)
    try:
        connection.execute("BEGIN IMMEDIATE")
        return "wrote"
    except sqlite3.OperationalError as error:
        return str(error)
    finally:
        connection.close()


def test_a_childs_write_lock_is_felt_by_its_parent(app: Flask) -> None:
    use_everything(app)
    kept: list[Any] = []

    def write() -> None:
        connection = app.extensions["ours"].connect()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO word VALUES ('child')")
        kept.append(connection)

    end = in_child(write)
    assert "locked" in try_to_write(str(app.extensions["dbopt"].default.path))
    end()


def test_what_a_child_commits_is_not_lost_when_its_parent_closes_the_database(app: Flask) -> None:
    use_everything(app)
    path = str(app.extensions["dbopt"].default.path)
    kept: list[Any] = []

    def write() -> None:
        kept.append(app.extensions["ours"].connect())
        kept[0].execute("INSERT INTO word VALUES ('first')")
        kept[0].commit()

    def write_more() -> None:
        kept[0].execute("INSERT INTO word VALUES ('second')")
        kept[0].commit()

    end = in_child(write, write_more)
    # Whoever closes a database last takes the WAL back and deletes it: the parent must see that it is not the last.
    app.extensions["dbopt"].close()
    with app.app_context():
        app.extensions["db"].engine.dispose()
    end()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT text FROM word").fetchall() == [("one",), ("first",), ("second",)]
    connection.close()


def test_a_child_counts_as_a_worker_of_its_own_and_its_ledger_entries_are_added(app: Flask) -> None:
    use_everything(app)
    dbopt = app.extensions["ours"]

    def read() -> None:
        with dbopt.borrow() as connection:
            for _ in range(5):
                connection.execute("SELECT count(*) FROM word").fetchall()
        dbopt.monitor.flush()

    with dbopt.borrow() as connection:
        for _ in range(3):
            connection.execute("SELECT count(*) FROM word").fetchall()
    in_child(read)()
    (query,) = [query for query in dbopt.monitor.queries() if query.query == "SELECT count(*) FROM word"]
    assert query.calls == 8


def test_a_parent_goes_on_after_a_fork(app: Flask) -> None:
    use_everything(app)
    in_child(lambda: use_everything(app))()
    use_everything(app)
