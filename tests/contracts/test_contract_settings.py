"""Settings, and being switched off."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.errors import ConfigurationError


def test_every_fault_is_told_at_once_with_the_nearest_name(make_app: Callable[..., Flask]) -> None:
    app = make_app(DBOPT_POOL_MAXIMUM=5, DBOPT_CACHE_TTL="long", DBOPT_POOL_MIN=-1)
    with pytest.raises(ConfigurationError) as raised:
        DBOptimizer(app)
    told = str(raised.value)
    assert "DBOPT_POOL_MAXIMUM" in told
    assert "DBOPT_POOL_MAX" in told
    assert "DBOPT_CACHE_TTL" in told
    assert "DBOPT_POOL_MIN" in told
    assert isinstance(raised.value, ValueError)


def test_after_a_refusal_the_app_can_be_initialised(make_app: Callable[..., Flask], path: Path) -> None:
    app = make_app(DBOPT_POOL_MAXIMUM=5, DBOPT_DATABASE=str(path))
    with pytest.raises(ConfigurationError):
        DBOptimizer(app)
    del app.config["DBOPT_POOL_MAXIMUM"]
    with DBOptimizer(app).borrow() as c:
        assert c.execute("SELECT 1").fetchone() == (1,)


def test_the_apps_config_wins_over_the_environment_and_that_over_a_keyword(
    make_app: Callable[..., Flask], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(DBOPT_POOL_MAX=7)
    monkeypatch.setenv("DBOPT_POOL_MAX", "8")
    monkeypatch.setenv("DB_CACHE_TTL", "9")
    optimizer = DBOptimizer(app, database=path, pool_max=6, cache_ttl=5, pool_timeout=4).optimizer
    assert (optimizer.settings.pool_max, optimizer.settings.cache_ttl, optimizer.settings.pool_timeout) == (7, 9, 4)
    assert (optimizer.databases["default"].pool.maximum, optimizer.databases["default"].pool.timeout) == (7, 4)


@pytest.mark.parametrize("place", ["path", "pathlike", "url", "tutorial", "keyword"])
def test_the_database_may_be_named_in_every_usual_way(make_app: Callable[..., Flask], path: Path, place: str) -> None:
    config: dict[str, Any] = {
        "path": {"DBOPT_DATABASE": str(path)},
        "url": {"DBOPT_DATABASE": f"sqlite:///{path}"},
        "tutorial": {"DATABASE": path},
    }.get(place, {})
    database = {"pathlike": path, "keyword": str(path)}.get(place)
    dbopt = DBOptimizer(make_app(**config), database=database)
    with dbopt.borrow() as c:
        assert c.execute("SELECT count(*) FROM keyword").fetchone() == (3000,)


def test_a_database_in_memory_is_served_and_has_no_rooms(make_app: Callable[..., Flask]) -> None:
    app = make_app(DBOPT_DATABASE="sqlite://")
    dbopt = DBOptimizer(app)
    with app.app_context():
        dbopt.connection.execute("CREATE TABLE t (a)")
        assert dbopt.connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
        kept = dbopt.connection
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        kept.execute("SELECT 1")
    for room in ("pool", "advisor", "backups"):
        with pytest.raises(ConfigurationError, match=f"has no {room}"):
            getattr(dbopt, room)


def test_another_kind_of_database_is_told_from_sqlite(make_app: Callable[..., Flask]) -> None:
    for enabled in (True, False):
        dbopt = DBOptimizer(make_app(DBOPT_DATABASE="postgresql+psycopg://host/name", DBOPT_ENABLED=enabled))
        with pytest.raises(
            ConfigurationError, match=r"connect\(\) opens SQLite databases, and 'default' is postgresql"
        ):
            dbopt.connect()
        options = dbopt.engine_options()
        assert set(options) == ({"poolclass", "lender"} if enabled else set())


def test_several_databases_have_names(make_app: Callable[..., Flask], path: Path, tmp_path: Path) -> None:
    app = make_app(DBOPT_DATABASES={"main": str(path), "logs": str(tmp_path / "logs.db")})
    dbopt = DBOptimizer(app)
    with dbopt.transaction("logs") as c:
        c.execute("CREATE TABLE line (text)")
    with dbopt.borrow() as c:
        assert c.execute("SELECT count(*) FROM keyword").fetchone() == (3000,)
    with dbopt.borrow("logs") as c:
        assert c.execute("SELECT count(*) FROM line").fetchone() == (0,)
    with pytest.raises(ConfigurationError, match="there is no database 'other'; known: main, logs"):
        dbopt.connect("other")
    with app.app_context():
        dbopt.connect("logs").execute("INSERT INTO line VALUES ('never committed')")
        dbopt.connect("main").execute("SELECT 1")
    for database in app.extensions["dbopt"].databases.values():
        assert database.pool.holders() == ()
    assert [database.name for database in dbopt.report().databases] == ["main", "logs"]


def test_further_databases_leave_the_tutorials_one_the_main_one(
    make_app: Callable[..., Flask], path: Path, tmp_path: Path
) -> None:
    for in_context in (True, False):
        app = make_app(DATABASE=str(path), DBOPT_DATABASES={"logs": str(tmp_path / "logs.db")})
        dbopt = DBOptimizer(app)
        with app.app_context() if in_context else contextlib.nullcontext(), dbopt.borrow() as c:
            assert c.execute("SELECT count(*) FROM keyword").fetchone() == (3000,)
        assert set(dbopt.optimizer.databases) == {"default", "logs"}


# --- switched off


@pytest.fixture
def off(make_app: Callable[..., Flask], path: Path) -> DBOptimizer:
    return DBOptimizer(make_app(testing=False, DBOPT_DATABASE=str(path), DBOPT_ENABLED=False))


def test_switched_off_every_entrance_is_plain(off: DBOptimizer, path: Path) -> None:
    optimizer = off.optimizer
    app = next(iter(off._optimizers))
    with contextlib.closing(off.connect(timeout=1, isolation_level=None)) as c:
        assert type(c) is sqlite3.Connection
        assert c.isolation_level is None
        assert c.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    with off.borrow() as c:
        assert type(c) is sqlite3.Connection
    with off.transaction() as c:
        c.execute("INSERT INTO note VALUES (1, 'kept')")
    with pytest.raises(sqlite3.IntegrityError), off.transaction() as c:
        c.executemany("INSERT INTO note VALUES (?, 'lost')", [(2,), (2,)])
    with contextlib.closing(off.connect(readonly=True)) as c:
        assert c.execute("SELECT text FROM note").fetchall() == [("kept",)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            c.execute("DELETE FROM note")
    with app.app_context():
        kept = off.connection
        assert kept is off.connection
        kept.execute("DELETE FROM note")
        kept.close()
        again = off.connection
        assert again.execute("SELECT text FROM note").fetchall() == [("kept",)]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        again.execute("SELECT 1")
    with app.test_request_context():
        pass
    assert off.engine_options() == {}
    assert optimizer.monitor.queries() == []


def test_switched_off_nothing_starts_and_nothing_is_written(off: DBOptimizer, path: Path) -> None:
    app = next(iter(off._optimizers))
    threads = threading.active_count()

    @app.get("/")
    def index() -> str:
        return str(off.connection.execute("SELECT count(*) FROM keyword").fetchone()[0])

    assert app.test_client().get("/").text == "3000"
    assert app.test_client().get("/_dbopt/").status_code == 404
    assert threading.active_count() <= threads  # those of earlier tests may end meanwhile
    assert not Path(app.instance_path).exists()
    assert sorted(each.name for each in path.parent.glob("app.db*")) == ["app.db"]


def test_switched_off_the_figures_are_empty_and_the_rooms_say_why(off: DBOptimizer) -> None:
    assert off.report() is not None
    assert off.health().ok
    assert off.cache.stats().enabled is False
    assert off.monitor.queries() == []
    with pytest.raises(ConfigurationError, match="DBOPT_ENABLED is off"):
        off.pool


def test_switched_off_uris_and_odd_paths_work(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    odd = tmp_path / "a?b#c%41.db"
    dbopt = DBOptimizer(make_app(DBOPT_ENABLED=False), database=odd)
    for readonly in (False, True):
        with contextlib.closing(dbopt.connect(readonly=readonly)) as c:
            c.execute("CREATE TABLE IF NOT EXISTS t (a)")
    dbopt = DBOptimizer(make_app(DBOPT_ENABLED=False), database=f"file:{tmp_path}/uri.db?mode=rwc")
    with dbopt.borrow() as c:
        c.execute("CREATE TABLE t (a)")
    assert (tmp_path / "uri.db").exists()


# --- where it cannot write


def test_a_state_folder_that_cannot_be_made_keeps_figures_in_memory(
    make_app: Callable[..., Flask], path: Path, tmp_path: Path
) -> None:
    (tmp_path / "occupied").write_text("a file, not a folder")
    app = make_app(testing=False, DBOPT_DATABASE=str(path), DBOPT_STATE_DIR=str(tmp_path / "occupied" / "dbopt"))
    dbopt = DBOptimizer(app)

    @app.get("/")
    def index() -> str:
        return str(dbopt.connection.execute("SELECT count(*) FROM keyword").fetchone()[0])

    for _ in range(2):
        assert app.test_client().get("/").text == "3000"
    app.extensions["dbopt"].housekeeper.run_due(1e9)
    assert sum(each.calls for each in dbopt.monitor.queries()) == 2
    assert any("memory" in told for told in dbopt.optimizer.notices())


def test_a_lease_folder_that_cannot_be_used_stops_no_request(
    make_app: Callable[..., Flask], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("flask_dbopt.lease.default_directory", lambda: tmp_path / "file" / "leases")
    app = make_app(testing=False, DBOPT_DATABASE=str(path))
    dbopt = DBOptimizer(app)

    @app.get("/")
    def index() -> str:
        return str(dbopt.connection.execute("SELECT count(*) FROM keyword").fetchone()[0])

    assert app.test_client().get("/").text == "3000"
    app.extensions["dbopt"].housekeeper.run_due(1e9)
    assert not dbopt.optimizer.lease.held
    assert any("background work" in told for told in dbopt.optimizer.notices())


def test_in_tests_no_state_folder_is_made(site: Flask, dbopt: DBOptimizer) -> None:
    with site.app_context():
        dbopt.connection.execute("SELECT 1")
    site.extensions["dbopt"].close()
    assert not Path(site.instance_path).exists()


def test_a_problem_is_logged_once(caplog: pytest.LogCaptureFixture, dbopt: DBOptimizer) -> None:
    def broken(*about: Any) -> Any:
        raise RuntimeError("the recorder is out of order")

    dbopt.optimizer.default.road.record = broken
    with caplog.at_level(logging.ERROR, logger="flask_dbopt"), dbopt.borrow() as c:
        for _ in range(50):
            assert c.execute("SELECT 1").fetchone() == (1,)
    assert len(caplog.records) <= 1
