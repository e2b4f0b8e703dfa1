"""Which engines get a pool of ours, on whose terms, and what their figures say."""

from __future__ import annotations

import gc
import logging
import sqlite3
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool, QueuePool, SingletonThreadPool

from flask_dbopt import DBOptimizer
from flask_dbopt.engines.sqlite.connection import Connection
from flask_dbopt.errors import DBOptError, PoolTimeout
from tests.bridges.conftest import Make, MakeSite, ask, fill, lender

# --- whose word counts


def test_an_engine_without_options_of_its_own_has_the_settings(make_site: MakeSite, make_engine: Make) -> None:
    dbopt = make_site(DBOPT_POOL_MAX=7, DBOPT_POOL_MIN=3, DBOPT_POOL_TIMEOUT=4, DBOPT_POOL_MAX_WAITING=9)
    engine = make_engine()
    dbopt.attach(engine)
    pool = lender(engine)
    assert (pool.minimum, pool.maximum, pool.timeout, pool.max_waiting) == (3, 7, 4, 9)
    assert (pool.stock.max_lifetime, pool.stock.check_after) == (3600, 0.5)
    assert (engine.pool.size(), engine.pool.timeout()) == (7, 4)


@pytest.mark.parametrize(
    ("options", "bounds"),
    [
        ({"pool_size": 2}, (2, 12, 2)),
        ({"pool_size": 8, "max_overflow": 0}, (5, 8, 8)),
        ({"max_overflow": 1}, (5, 6, 5)),
        ({"pool_size": 0}, (5, 10_000, 10_000)),
        ({"max_overflow": -1}, (5, 10_000, 5)),
    ],
)
def test_the_engines_own_bounds_win(
    dbopt: DBOptimizer, make_engine: Make, options: dict[str, Any], bounds: tuple[int, int, int]
) -> None:
    engine = make_engine(**options)
    dbopt.attach(engine)
    pool = lender(engine)
    assert (pool.minimum, pool.maximum, pool.stock.most_idle) == bounds
    theirs = make_engine(**options).pool
    assert isinstance(theirs, QueuePool)
    assert (engine.pool.size(), engine.pool.overflow()) == (theirs.size(), theirs.overflow())


def test_the_engines_other_options_win(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(pool_timeout=0.5, pool_recycle=7200, pool_pre_ping=True)
    dbopt.attach(engine)
    pool = lender(engine)
    assert (pool.timeout, pool.stock.max_lifetime, pool.stock.check_after) == (0.5, 7200, float("inf"))
    assert (pool.maximum, engine.pool._recycle, engine.pool._pre_ping) == (20, 7200, True)


def test_no_more_stand_idle_than_the_engine_wants(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(pool_size=1, max_overflow=2)
    dbopt.attach(engine)
    with engine.connect(), engine.connect(), engine.connect():
        assert engine.pool.checkedout() == 3
    assert (engine.pool.checkedin(), lender(engine).stats().pool_size) == (1, 1)


def test_pools_that_are_no_plain_queue_pool_are_left_alone(dbopt: DBOptimizer, make_engine: Make) -> None:
    memory = make_engine("sqlite:///file:shared?mode=memory&cache=shared&uri=true", poolclass=QueuePool)
    none = make_engine(poolclass=NullPool)
    for engine, kind in ((memory, QueuePool), (none, NullPool)):
        dbopt.attach(engine)
        assert type(engine.pool) is kind


def test_where_references_cannot_be_counted_sqlalchemys_pool_stays(
    dbopt: DBOptimizer, make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_dbopt.bridges.sqlalchemy_pool.COUNTS_ARE_TRUE", False)
    engine = make_engine()
    dbopt.attach(engine)
    assert type(engine.pool) is QueuePool
    assert ask(engine) == 2000
    assert dbopt.optimizer.default.pool_stats().requests_num == 1


def test_a_connection_for_one_thread_stays_so_while_it_is_lent(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(connect_args={"check_same_thread": True})
    dbopt.attach(engine)
    assert ask(engine) == 2000
    told: list[str] = []

    def elsewhere(c: sa.Connection) -> None:
        try:
            c.exec_driver_sql("SELECT 1")
        except sa.exc.ProgrammingError as error:
            told.append(str(error))
        told.append(str(ask(engine)))

    with engine.connect() as c:
        thread = threading.Thread(target=elsewhere, args=(c,))
        thread.start()
        thread.join()
    assert "created in a thread can only be used in that same thread" in told[0]
    assert told[1] == "2000"
    for work in (lender(engine).check, lender(engine).drain):  # the housekeeper's thread does these
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert (lender(engine).stats().connections_lost, engine.pool.checkedin()) == (0, 0)


# --- engines born with it


def test_an_engine_is_born_with_it(make_site: MakeSite, make_engine: Make, path: Path) -> None:
    dbopt = make_site(DBOPT_DATABASE=str(path), DBOPT_POOL_MAX=6)
    engine = make_engine(pool_timeout=3, **dbopt.engine_options())
    pool = lender(engine)
    assert (pool.maximum, pool.timeout) == (6, 3)
    assert ask(engine) == 2000
    assert dbopt.optimizer.default.pool_stats().requests_num == 1
    dbopt.attach(engine)
    assert lender(engine) is pool
    engine.dispose()
    assert lender(engine) is pool
    assert ask(engine) == 2000
    assert dbopt.optimizer.default.pool_stats().requests_num == 2


def test_an_engine_in_memory_is_born_with_its_own_pool(make_site: MakeSite, make_engine: Make) -> None:
    dbopt = make_site(DBOPT_DATABASE=":memory:")
    engine = make_engine("sqlite://", **dbopt.engine_options())
    assert type(engine.pool) is SingletonThreadPool
    with engine.connect() as c:
        assert isinstance(c.connection.dbapi_connection, Connection)


# --- figures


def test_its_figures_are_the_databases(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(pool_size=2, max_overflow=1)
    dbopt.attach(engine)
    for _ in range(4):
        ask(engine)
    stats = dbopt.optimizer.default.pool_stats()
    assert (stats.pool_max, stats.pool_size, stats.requests_num, stats.connections_num) == (3, 1, 4, 1)
    assert (stats.hit_ratio, stats.requests_errors) == (0.75, 0)
    with dbopt.borrow() as c:  # from the raw pool, which allows its own
        c.execute("SELECT 1")
    del c
    stats = dbopt.optimizer.default.pool_stats()
    assert (stats.pool_max, stats.pool_size, stats.requests_num) == (23, 2, 5)
    assert dbopt.pool.stats().requests_num == 1
    engine.dispose()
    assert lender(engine).stats().requests_num == 4


def test_a_connection_opened_anew_in_its_place_is_counted(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    with engine.connect() as c:
        c.invalidate()
    ask(engine)
    with engine.connect() as c:
        c.invalidate(sqlite3.OperationalError("broken"))
    ask(engine)
    stats = lender(engine).stats()
    assert (stats.connections_num, stats.connections_lost, stats.pool_size) == (3, 1, 1)


def test_several_engines_several_files_and_dispositions_add_nothing_up(
    dbopt: DBOptimizer, make_engine: Make, tmp_path: Path
) -> None:
    fill(tmp_path / "two.db", 3)
    one, same, two = make_engine(), make_engine(), make_engine(f"sqlite:///{tmp_path}/two.db")
    for _ in range(3):
        for name, engine in (("words", one), ("again", same), ("two", two)):
            dbopt.attach(engine, name)
            dbopt.attach(engine.execution_options(stream_results=True), name)
            engine.dispose()
    assert (ask(one), ask(same), ask(two)) == (2000, 2000, 3)
    databases = dbopt.optimizer.databases
    assert list(databases) == ["words", "two"]
    assert [len(each.pools) for each in databases.values()] == [3, 2]
    assert databases["words"].pool_stats().requests_num == 2


def test_a_dropped_engine_takes_its_pool_along(dbopt: DBOptimizer, path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    dbopt.attach(engine)
    assert ask(engine) == 2000
    gone = [weakref.ref(each) for each in (engine, engine.pool, lender(engine))]
    engine.dispose()
    del engine
    gc.collect()
    assert [each() for each in gone] == [None] * 3
    assert len(dbopt.optimizer.default.pools) == 1
    assert len(dbopt.optimizer.default.upkeeps) == 1


def test_many_apps_in_turn_leave_a_modules_engine_one_pool(make_site: MakeSite, make_engine: Make) -> None:
    engine = make_engine(pool_size=3, max_overflow=0)
    seen: list[Any] = []
    event.listen(engine, "connect", lambda connection, record: seen.append(connection))
    for _ in range(4):
        dbopt = make_site()
        dbopt.attach(engine)
        assert ask(engine) == 2000
        assert dbopt.optimizer.default.pool_stats().requests_num == 1
        assert (lender(engine).maximum, engine.pool.checkedin()) == (3, 1)
        dbopt.optimizer.close()
    assert ask(engine) == 2000
    assert len(seen) == 4


def test_a_second_optimizer_leaves_the_pool_to_the_first(make_site: MakeSite, make_engine: Make) -> None:
    engine = make_engine()
    one, two = make_site(), make_site()
    for dbopt in (one, two):
        dbopt.attach(engine)
    assert ask(engine) == 2000
    figures = [dbopt.optimizer.default.pool_stats().requests_num for dbopt in (one, two)]
    assert figures == [1, 0]


def test_it_logs_where_sqlalchemys_pools_do(
    dbopt: DBOptimizer, make_engine: Make, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    with caplog.at_level(logging.DEBUG, "sqlalchemy.pool"):
        dbopt.attach(engine)
        assert ask(engine) == 2000
    assert any("checked out from pool" in line for line in caplog.messages)


# --- exhaustion


@pytest.mark.parametrize("caught", [PoolTimeout, DBOptError, TimeoutError, sa.exc.TimeoutError, sa.exc.SQLAlchemyError])
def test_exhaustion_is_caught_as_anybody_would(dbopt: DBOptimizer, make_engine: Make, caught: type[Exception]) -> None:
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=0.05)
    dbopt.attach(engine)
    with (
        engine.connect(),
        pytest.raises(caught, match=r"no connection within 0.05 s; 1 of 1 are lent \(oldest 0 s") as late,
    ):
        engine.connect()
    assert "DBOPT_POOL_MAX" in late.value.hint
    assert late.value.code == "3o7r"
    assert ask(engine) == 2000


def test_an_exhausted_engine_says_which_request_has_the_connection(make_site: MakeSite, make_engine: Make) -> None:
    dbopt = make_site()
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=0.05)
    dbopt.attach(engine)
    site = next(iter(dbopt._optimizers))

    @site.get("/report", endpoint="report")
    def report() -> str:
        with engine.connect(), pytest.raises(sa.exc.TimeoutError) as late:
            engine.connect()
        return str(late.value)

    assert "GET report" in site.test_client().get("/report").text
    assert lender(engine).holders() == ()
