"""SQLAlchemy's engines in our care: found or attached, of any pool, and none the worse for it."""

from __future__ import annotations

import gc
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import AssertionPool, NullPool, Pool, QueuePool, SingletonThreadPool, StaticPool

from flask_dbopt import DBOptimizer
from flask_dbopt.engines.sqlite.connection import Connection
from flask_dbopt.errors import ConfigurationError
from tests.bridges.conftest import Make

COUNT = sa.text("SELECT count(*) FROM word WHERE text LIKE :like")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Flask]:
    """For an optimizer that is made in the test."""
    site = make_site(tmp_path, "site")
    yield site
    site.extensions["dbopt"].close()


def ask(engine: sa.Engine, like: str = "%1%") -> int:
    with engine.connect() as c:
        return int(c.execute(COUNT, {"like": like}).scalar_one())


def driver(engine: sa.Engine) -> Any:
    with engine.connect() as c:
        return c.connection.dbapi_connection


def statements(dbopt: DBOptimizer) -> int:
    return sum(each.calls for each in dbopt.monitor.queries() if "word" in each.query)


# --- attaching


def test_an_attached_engine_is_tuned_timed_and_cached(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    dbopt.optimizer.default.road.notable = dbopt.optimizer.default.shelf.worth = 0.0
    assert {ask(engine) for _ in range(6)} == {ask(engine)}
    assert isinstance(driver(engine), Connection)
    assert statements(dbopt) == 7
    assert dbopt.cache.stats().hits > 0
    with engine.connect() as c:
        assert [c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")] == ["wal", 1]


def test_connections_from_before_we_came_are_opened_anew(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine()
    before = driver(engine)
    assert type(before) is sqlite3.Connection
    del before
    dbopt.attach(engine)
    assert isinstance(driver(engine), Connection)


def test_a_connection_that_is_out_while_we_come_is_timed_when_it_comes_back(
    dbopt: DBOptimizer, make_engine: Make
) -> None:
    engine = make_engine(poolclass=StaticPool)
    with engine.connect() as c:
        dbopt.attach(engine)
        assert c.execute(COUNT, {"like": "%1%"}).scalar_one() > 0
    ask(engine)
    with engine.connect() as c, pytest.raises(OperationalError, match="no such column"):
        c.exec_driver_sql("SELECT missing FROM word")
    (good,) = [each for each in dbopt.monitor.queries() if "count" in each.query]
    (bad,) = [each for each in dbopt.monitor.queries() if "missing" in each.query]
    assert (good.calls, bad.errors) == (1, 1)


def test_attaching_again_changes_nothing(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine()
    for _ in range(3):
        dbopt.attach(engine)
    ask(engine)
    assert list(dbopt.optimizer.databases) == ["default"]
    assert statements(dbopt) == 1


def test_an_engine_may_be_handed_over_at_once(site: Flask, make_engine: Make) -> None:
    engine = make_engine()
    dbopt = DBOptimizer(site, engine=engine)
    ask(engine)
    assert statements(dbopt) == 1


def test_several_engines_have_names(dbopt: DBOptimizer, make_engine: Make, tmp_path: Path) -> None:
    one, same, two = make_engine(), make_engine(), make_engine(f"sqlite:///{tmp_path}/two.db")
    dbopt.attach(one, "words")
    dbopt.attach(same, "again")
    dbopt.attach(two, "two")
    assert list(dbopt.optimizer.databases) == ["words", "two"]
    ask(one)
    ask(same)
    assert dbopt.optimizer.databases["words"].pool_stats().requests_num == 2
    with dbopt.borrow("two") as c:
        c.execute("CREATE TABLE t (a)")
    assert sa.inspect(two).get_table_names() == ["t"]


@pytest.mark.parametrize("thing", [None, "sqlite://", 5])
def test_what_is_no_engine_is_refused(dbopt: DBOptimizer, thing: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"attach\(\) takes a SQLAlchemy Engine, not"):
        dbopt.attach(thing)


def test_an_async_engine_is_refused_with_a_reason(dbopt: DBOptimizer, make_engine: Make) -> None:
    class AsyncEngine:
        """As SQLAlchemy's, which needs a driver of its own to be made."""

        sync_engine = make_engine()

    with pytest.raises(ConfigurationError, match="async engines run their statements where"):
        dbopt.attach(AsyncEngine())


def test_switched_off_an_engine_is_left_alone(site: Flask, make_engine: Make) -> None:
    site.config["DBOPT_ENABLED"] = False
    dbopt = DBOptimizer(site)
    engine = make_engine(**dbopt.engine_options()) if "default" in dbopt.optimizer.databases else make_engine()
    dbopt.attach(engine)
    assert type(driver(engine)) is sqlite3.Connection
    assert dbopt.monitor.queries() == []


def test_an_engine_made_with_our_options_is_ours(site: Flask, path: Path, make_engine: Make) -> None:
    dbopt = DBOptimizer(site, database=path)
    engine = make_engine(**dbopt.engine_options())
    ask(engine)
    assert isinstance(driver(engine), Connection)
    assert statements(dbopt) == 1
    dbopt.attach(engine)
    ask(engine)
    assert statements(dbopt) == 2


def test_another_database_system_is_timed_by_events(dbopt: DBOptimizer) -> None:
    """The events do not care what the driver is; here it is SQLite under another name."""
    engine = sa.create_engine("sqlite://", poolclass=StaticPool)
    engine.dialect.driver = "another"
    dbopt.attach(engine, "foreign")
    with engine.connect() as c:
        c.exec_driver_sql("CREATE TABLE word (id)")
        c.exec_driver_sql("INSERT INTO word VALUES (1)")
        c.execute(sa.text("INSERT INTO word VALUES (:n)"), [{"n": 2}, {"n": 3}])
        with pytest.raises(OperationalError):
            c.exec_driver_sql("SELECT wrong FROM word")
        assert not c.info
    assert {each.query: each.rows for each in dbopt.monitor.queries()}["INSERT INTO word VALUES (?)"] == 3
    assert dbopt.optimizer.databases["foreign"].pool is None
    assert dbopt.optimizer.databases["foreign"].pool_stats().connections_num == 1
    with pytest.raises(ConfigurationError, match=r"connect\(\) opens SQLite databases"):
        dbopt.connect("foreign")
    engine.dispose()


@pytest.mark.parametrize("first", [True, False])
def test_another_listener_that_runs_statements_is_asked_and_timed_with_them(dbopt: DBOptimizer, first: bool) -> None:
    engine = sa.create_engine("sqlite://", poolclass=StaticPool)
    engine.dialect.driver = "another"
    if first:
        dbopt.attach(engine, "foreign")

    @event.listens_for(engine, "do_execute_no_params")
    @event.listens_for(engine, "do_execute")
    def run(cursor: Any, statement: str, *_: Any) -> bool:
        seen.append(statement)
        if "42" in statement:
            cursor.execute("SELECT 'by another'")
        return "42" in statement

    seen: list[str] = []
    dbopt.attach(engine, "foreign")
    with engine.connect() as c:
        assert c.exec_driver_sql("SELECT 42").scalar() == "by another"
        assert c.exec_driver_sql("SELECT 7").scalar() == 7
        options = c.execution_options(no_parameters=True)
        assert options.exec_driver_sql("SELECT '%'").scalar() == "%"
    assert seen[-3:] == ["SELECT 42", "SELECT 7", "SELECT '%'"]
    calls = sum(each.calls for each in dbopt.monitor.queries())
    assert calls == (len(seen) if first else len(seen) - 1), "what another has run before we are asked is not ours"
    engine.dispose()


# --- pools


class Own(QueuePool):
    """A pool class of the app's own."""


@pytest.mark.parametrize("poolclass", [Own, NullPool, StaticPool, SingletonThreadPool, AssertionPool])
def test_every_kind_of_pool_stays_what_it_is(dbopt: DBOptimizer, make_engine: Make, poolclass: type[Pool]) -> None:
    engine = make_engine(poolclass=poolclass)
    dbopt.attach(engine)
    for _ in range(3):
        ask(engine)
    assert type(engine.pool) is poolclass
    assert isinstance(driver(engine), Connection)
    assert statements(dbopt) == 3
    assert dbopt.optimizer.default.pool_stats().requests_num >= 4
    engine.dispose()
    ask(engine)
    assert isinstance(driver(engine), Connection)


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:shared?mode=memory&cache=shared&uri=true"]
)
@pytest.mark.parametrize("before", [True, False])
def test_a_database_in_memory_stays_one_and_leaves_no_file(
    dbopt: DBOptimizer, make_engine: Make, url: str, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = make_engine(url, poolclass=StaticPool)
    if not before:
        dbopt.attach(engine)
    with engine.begin() as c:
        c.exec_driver_sql("CREATE TABLE word (text)")
        c.exec_driver_sql("INSERT INTO word VALUES ('w1')")
    dbopt.attach(engine)
    for _ in range(5):
        assert ask(engine) == 1
    assert dbopt.optimizer.default.path is None
    assert dbopt.optimizer.default.pool is None
    assert not list(tmp_path.glob("file*")) + list(tmp_path.glob("shared*"))
    assert statements(dbopt) >= 5
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if ask(engine) == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_creator_of_the_apps_own_is_used_and_timed(dbopt: DBOptimizer, make_engine: Make, path: Path) -> None:
    engine = make_engine("sqlite://", creator=lambda: sqlite3.connect(path, check_same_thread=False))
    dbopt.attach(engine)
    for _ in range(3):
        ask(engine)
    assert type(driver(engine)) is sqlite3.Connection
    assert statements(dbopt) == 3


def test_the_apps_own_arguments_and_listeners_stay(dbopt: DBOptimizer, make_engine: Make) -> None:
    class Own(sqlite3.Connection):
        pass

    options = {"connect_args": {"timeout": 1.5, "factory": Own, "detect_types": sqlite3.PARSE_DECLTYPES}}
    engine = make_engine(**options)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.create_function("shout", 1, str.upper)

    dbopt.attach(engine)
    assert isinstance(driver(engine), Own)
    assert isinstance(driver(engine), Connection)
    for _ in range(3):
        with engine.connect() as c:
            assert c.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1500
            assert c.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
            assert c.exec_driver_sql("SELECT shout('a')").scalar() == "A"
    assert options["connect_args"] == {"timeout": 1.5, "factory": Own, "detect_types": sqlite3.PARSE_DECLTYPES}


def test_a_read_only_uri_reads(dbopt: DBOptimizer, make_engine: Make, path: Path) -> None:
    engine = make_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    dbopt.attach(engine)
    assert ask(engine, "word1") == 1
    with engine.connect() as c, pytest.raises(OperationalError, match="readonly"):
        c.exec_driver_sql("DELETE FROM word")
    assert dbopt.optimizer.default.path == path


def test_exhaustion_is_sqlalchemys_own_error(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.05)
    dbopt.attach(engine)
    with engine.connect(), pytest.raises(SQLAlchemyTimeout):
        engine.connect()
    stats = dbopt.optimizer.default.pool_stats()
    assert (stats.pool_max, stats.connections_num, stats.requests_errors) == (1, 1, 1)


def test_dispose_and_drop_all_work_in_the_middle(dbopt: DBOptimizer, make_engine: Make) -> None:
    metadata = sa.MetaData()
    sa.Table("more", metadata, sa.Column("id", sa.Integer, primary_key=True))
    engine = make_engine()
    dbopt.attach(engine)
    metadata.create_all(engine)
    with engine.connect() as c:
        first = c.execute(sa.text("SELECT text FROM word"))
        assert first.fetchone() is not None
        engine.dispose()
        assert ask(engine, "word1") == 1
        assert len(first.fetchall()) == 1999
        c.invalidate()  # its pool is gone
    metadata.drop_all(engine)
    metadata.create_all(engine)
    assert isinstance(engine.pool, Pool)
    assert ask(engine, "word1") == 1
    with engine.connect() as c:
        c.invalidate()
    assert dbopt.optimizer.default.pool_stats().connections_lost == 0
    assert ask(engine, "word1") == 1


def test_threads_share_an_engine(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    dbopt.optimizer.default.road.notable = dbopt.optimizer.default.shelf.worth = 0.0
    told: list[int] = []
    threads = [threading.Thread(target=lambda: told.extend(ask(engine, "word1") for _ in range(30))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [1] * 120
    assert statements(dbopt) == 120


def test_a_forked_child_opens_connections_of_its_own(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    ask(engine)
    before = driver(engine)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if driver(engine) is not before and ask(engine, "word1") == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    del before
    assert ask(engine, "word1") == 1


# --- several apps


def make_site(tmp_path: Path, name: str) -> Flask:
    site = Flask(name, instance_path=str(tmp_path / name))
    site.testing = True
    return site


def test_an_engine_of_two_apps_is_timed_by_the_first(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine()
    sites = [make_site(tmp_path, name) for name in ("one", "two")]
    one, two = map(DBOptimizer, sites)
    for dbopt in (one, two, two):
        dbopt.attach(engine, "words")
    ask(engine)
    assert (statements(one), statements(two)) == (1, 0)
    assert list(two.optimizer.databases) == ["words"]
    with two.borrow("words") as c:
        assert c.execute("SELECT count(*) FROM word").fetchone() == (2000,)
    for site in sites:
        site.extensions["dbopt"].close()


def test_a_modules_engine_is_taken_over_when_its_app_is_gone(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine()
    for turn in range(4):
        site = make_site(tmp_path, "site")
        dbopt = DBOptimizer(site)
        dbopt.attach(engine)
        for _ in range(turn + 1):
            ask(engine)
        assert statements(dbopt) == turn + 1
        if turn % 2:
            site.extensions["dbopt"].close()
        del site, dbopt
        gc.collect()
        gc.collect()
    ask(engine)
    with Session(engine) as session:
        assert session.execute(COUNT, {"like": "word1"}).scalar_one() == 1


def test_an_engine_goes_with_its_app(path: Path, tmp_path: Path) -> None:
    def life() -> list[weakref.ref[Any]]:
        site = make_site(tmp_path, "site")
        dbopt = DBOptimizer(site)
        engine = sa.create_engine(f"sqlite:///{path}")
        dbopt.attach(engine)
        ask(engine)
        gone = [weakref.ref(each) for each in (site, dbopt, dbopt.optimizer, engine, engine.pool)]
        engine.dispose()
        return gone

    left = [each for _ in range(4) for each in life()]
    for _ in range(3):
        gc.collect()
    assert [each() for each in left if each() is not None] == []
