"""When a room of ours fails, the app's statement runs all the same."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.engines.sqlite import road as roads

COUNT = "SELECT language, count(*) FROM keyword GROUP BY language ORDER BY 1"


def broken(*about: Any, **more: Any) -> Any:
    raise RuntimeError("out of order")


@pytest.fixture
def rooms(site: Flask) -> DBOptimizer:
    """Everything that costs more than nothing may be kept."""
    dbopt = DBOptimizer(site)
    database = site.extensions["dbopt"].default
    database.road.notable = database.shelf.worth = 0.0
    return dbopt


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What was logged; each fault may be told anew."""
    roads._told.clear()
    with caplog.at_level(logging.ERROR, logger="flask_dbopt"):
        yield caplog
    roads._told.clear()


def everything(dbopt: DBOptimizer) -> list[Any]:
    """A day in the life of a connection."""
    seen: list[Any] = []
    with dbopt.borrow() as c:
        for _ in range(6):
            seen.append(c.execute(COUNT).fetchall())
        seen.append(c.execute("INSERT INTO note (text) VALUES ('x')").rowcount)
        c.commit()
        c.executemany("INSERT INTO note (text) VALUES (?)", [("y",), ("z",)])
        c.rollback()
        c.executescript("UPDATE note SET text = 'w'")
        with c:
            c.execute("UPDATE note SET text = 'v'")
        seen.append(list(c.execute("SELECT text FROM note")))
        for wrong in ("SELEC", "SELECT nothing FROM note"):
            with pytest.raises(sqlite3.OperationalError):
                c.execute(wrong)
        with pytest.raises(sqlite3.OperationalError, match="syntax error"):
            c.executescript("SELEC 1")
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            c.executemany("INSERT INTO note (id) VALUES (?)", [(7,), (7,)])
        c.rollback()
        c.execute("DELETE FROM note")
        c.commit()
    del c
    return seen


@pytest.mark.parametrize("hook", ["record", "look", "learn", "sight", "sample", "inspect"])
def test_a_hook_of_the_road_that_fails_changes_nothing(
    rooms: DBOptimizer, hook: str, told: pytest.LogCaptureFixture
) -> None:
    expected = everything(rooms)
    road = rooms.optimizer.default.road
    setattr(road, hook, broken)
    road.slow = 0.0
    road.places.clear()
    road.ordinary.clear()
    road.cleared.clear()
    assert everything(rooms) == expected
    assert 1 <= len(told.records) <= 2, "told, but not at each statement"
    assert "run without it" in told.text


@pytest.mark.parametrize(
    ("room", "name"),
    [
        ("watcher", "token"),
        ("watcher", "footprint"),
        ("shelf", "_keep"),
        ("shelf", "_search"),
        ("cache", "_emit"),
        ("recorder", "full"),
    ],
)
def test_a_part_that_fails_inside_changes_nothing(
    rooms: DBOptimizer, room: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = everything(rooms)
    optimizer = rooms.optimizer
    owner = {
        "watcher": optimizer.default.watcher,
        "shelf": optimizer.default.shelf,
        "cache": optimizer.cache,
        "recorder": optimizer.monitor.recorder,
    }[room]
    monkeypatch.setattr(owner if room == "recorder" else type(owner), name, broken, raising=False)
    monkeypatch.setattr("flask_dbopt.monitor.recorder.PENDING", 3)
    assert everything(rooms) == expected


def test_a_ticket_that_cannot_keep_still_gives_the_rows(rooms: DBOptimizer) -> None:
    expected = everything(rooms)
    look = rooms.optimizer.default.road.look

    class Torn:
        rows = None
        description = None
        max_rows = 100
        keep = begin = staticmethod(broken)

        def __getattr__(self, name: str) -> Any:
            return broken

    rooms.optimizer.default.road.look = lambda *about: Torn() if look(*about) is not None else None
    assert everything(rooms) == expected


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (lambda optimizer: optimizer.housekeeper, "wake"),
        (lambda optimizer: optimizer.monitor.recorder, "begin"),
        (lambda optimizer: optimizer.monitor.recorder, "end"),
        (lambda optimizer: optimizer.monitor.recorder, "record"),
        (lambda optimizer: optimizer.monitor, "sweep"),
        (lambda optimizer: optimizer.cache, "let_go"),
        (lambda optimizer: optimizer.default.pool, "take_back_from"),
        (lambda optimizer: optimizer.lease, "acquire"),
    ],
)
@pytest.mark.parametrize("testing", [True, False])
def test_a_request_is_served_whatever_of_ours_fails_around_it(
    make_app: Callable[..., Flask],
    path: Path,
    part: Callable[[Any], Any],
    name: str,
    testing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = make_app(testing=testing, DBOPT_DATABASE=str(path), PROPAGATE_EXCEPTIONS=True)
    dbopt = DBOptimizer(app)

    @app.get("/")
    def index() -> str:
        return str(len(dbopt.connection.execute(COUNT).fetchall()))

    monkeypatch.setattr(type(part(dbopt.optimizer)), name, broken)
    for _ in range(3):
        assert app.test_client().get("/").text == "5"
    dbopt.optimizer.housekeeper.run_due(1e9)
    assert app.test_client().get("/").text == "5"


def test_a_context_is_pushed_although_the_databases_cannot_be_found(
    make_app: Callable[..., Flask], path: Path, told: pytest.LogCaptureFixture
) -> None:
    """As with Flask-SQLAlchemy 2, which keeps another object there."""

    class State:
        """What that one kept in app.extensions."""

    app = make_app(testing=False, DBOPT_DATABASE=str(path))
    dbopt = DBOptimizer(app)
    app.extensions["sqlalchemy"] = State()
    for _ in range(3):
        with app.app_context():
            assert len(dbopt.connection.execute(COUNT).fetchall()) == 5
    (problem,) = [each for each in dbopt.optimizer.notices() if "were not found" in each]
    assert "Flask-SQLAlchemy 3.1 or newer is needed" in problem
    assert len(told.records) == 1
    other = make_app()
    other.extensions["sqlalchemy"] = State()
    with pytest.raises(ValueError, match=r"names no engines .*Flask-SQLAlchemy 3\.1 or newer"):
        DBOptimizer(other).connect()


def test_a_cache_whose_file_is_locked_is_no_hindrance(rooms: DBOptimizer, path: Path) -> None:
    with rooms.borrow() as c:
        c.execute("PRAGMA journal_mode = DELETE")
    del c
    expected = everything(rooms)
    rooms.cache.let_go()
    assert everything(rooms) == expected


def test_a_pragma_that_cannot_be_read_beforehand_costs_the_connection_and_nothing_else(
    dbopt: DBOptimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flask_dbopt.engines.sqlite import statements

    monkeypatch.setattr(statements, "changed_pragmas", lambda sql: ("no_such_pragma",))
    with dbopt.borrow() as c:
        c.execute("PRAGMA cache_size = -7")
        assert c.execute("PRAGMA cache_size").fetchone() == (-7,)
    del c
    monkeypatch.undo()
    with dbopt.borrow() as c:
        assert c.execute("PRAGMA cache_size").fetchone() == (-10000,)


@pytest.mark.parametrize("name", ["Lane.enter", "Crossing.take", "Crossing._open"])
@pytest.mark.parametrize("transactions", ["app", "immediate"])
def test_a_writers_line_that_fails_keeps_nobody_from_writing(
    make_app: Callable[..., Flask],
    path: Path,
    name: str,
    transactions: str,
    monkeypatch: pytest.MonkeyPatch,
    told: pytest.LogCaptureFixture,
) -> None:
    app = make_app(DBOPT_DATABASE=str(path), DBOPT_SQLITE_TRANSACTIONS=transactions)
    dbopt = DBOptimizer(app)
    monkeypatch.setattr(f"flask_dbopt.pool.lane.{name}", broken)

    @app.post("/")
    def index() -> str:
        with dbopt.transaction() as c:
            c.execute("INSERT INTO note (text) VALUES ('x')")
        dbopt.connection.execute("INSERT INTO note (text) VALUES ('y')")
        dbopt.connection.commit()
        return str(dbopt.connection.execute("SELECT count(*) FROM note").fetchone()[0])

    assert [app.test_client().post("/").text for _ in range(3)] == ["2", "4", "6"]
    assert "the writers' line failed" in told.text


def test_who_asks_for_an_immediate_transaction_is_refused_only_by_the_database(dbopt: DBOptimizer, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        with dbopt.borrow() as c:
            c.execute("PRAGMA busy_timeout = 10")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                c.execute("BEGIN IMMEDIATE")
        other.rollback()
    with dbopt.transaction() as c:
        c.execute("INSERT INTO note VALUES (1, 'x')")
