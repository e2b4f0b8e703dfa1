"""An engine's pool of ours on a real PostgreSQL."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
import traceback
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, PendingRollbackError
from sqlalchemy.orm import Session

from flask_dbopt.bridges.sqlalchemy_pool import FairPool
from tests.postgres import PostgresServer
from tests.postgresql.conftest import MakeEngine, ask


def backend(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def terminate(server: PostgresServer, *backends: int) -> None:
    with server.connect(autocommit=True) as c:
        for number in backends:
            c.execute("SELECT pg_terminate_backend(%s, 5000)", (number,))


def alive(server: PostgresServer, number: int) -> bool:
    with server.connect(autocommit=True) as c:
        return c.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (number,)).fetchone() is not None


def test_connections_are_lent_again_and_statements_recorded(make_engine: MakeEngine) -> None:
    dbopt, engine = make_engine()
    assert type(engine.pool) is FairPool
    for _ in range(10):
        assert ask(engine) == 2
    with Session(engine) as session, pytest.raises(sa.exc.ProgrammingError):
        session.execute(sa.text("SELECT missing FROM word"))
    found = {each.query: each for each in dbopt.monitor.queries()}
    assert next(each.calls for query, each in found.items() if "count" in query) == 10
    assert next(each.errors for query, each in found.items() if "missing" in query) == 1
    stats = dbopt.optimizer.default.pool_stats()
    assert (stats.pool_max, stats.connections_num, stats.requests_num, stats.requests_errors) == (20, 1, 12, 0)
    assert stats.usage_ms > 0
    (database,) = dbopt.report().databases
    assert (database.kind, database.pool) == ("postgresql", stats)


def test_the_end_of_a_transaction_that_changed_something_is_timed(make_engine: MakeEngine) -> None:
    dbopt, engine = make_engine()  # which makes a table, in a transaction of its own
    with Session(engine) as session:
        session.execute(sa.text("INSERT INTO word VALUES (3, 'three')"))
        session.commit()
        session.execute(sa.text("SELECT count(*) FROM word"))
        session.commit()
        session.execute(sa.text("WITH w AS (INSERT INTO word VALUES (4, 'four') RETURNING id) SELECT id FROM w"))
    with engine.connect() as c, pytest.raises(sa.exc.IntegrityError):
        c.exec_driver_sql("INSERT INTO word VALUES (1, 'again')")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        c.exec_driver_sql("INSERT INTO word VALUES (5, 'five')")
        c.commit()
    assert ask(engine) == 4
    found = {each.query: each for each in dbopt.monitor.queries()}
    assert (found["COMMIT"].calls, found["ROLLBACK"].calls) == (2, 2)
    assert found["COMMIT"].min_exec_time > 0


def test_statements_of_the_drivers_own_kinds_run_and_are_told_as_text(make_engine: MakeEngine) -> None:
    dbopt, engine = make_engine()
    from psycopg import sql

    composed = sql.SQL("SELECT {} FROM word").format(sql.Identifier("text"))
    with engine.connect() as c:
        assert c.exec_driver_sql(composed).all() == [("one",), ("two",)]  # type: ignore[arg-type]
        assert c.exec_driver_sql(b"SELECT id FROM word").all() == [(1,), (2,)]  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            c.exec_driver_sql(["SELECT 1"])  # type: ignore[arg-type]
    told = [each.query for each in dbopt.monitor.queries()]
    assert "SELECT id FROM word" in told
    assert any("Composed" in each for each in told)


def test_a_commit_that_the_server_refuses_is_an_error_of_its_own(make_engine: MakeEngine) -> None:
    dbopt, engine = make_engine()
    with engine.begin() as c:
        c.exec_driver_sql("CREATE TABLE part (of int REFERENCES word DEFERRABLE INITIALLY DEFERRED)")
    with Session(engine) as session:
        session.execute(sa.text("INSERT INTO part VALUES (99)"))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
    found = {each.query: each for each in dbopt.monitor.queries()}
    assert (found["COMMIT"].calls, found["COMMIT"].errors) == (3, 1)
    assert "ROLLBACK" not in found


def test_the_extensions_pool_is_the_engines(make_engine: MakeEngine) -> None:
    dbopt, engine = make_engine()
    assert dbopt.pool is engine.pool.lender
    with engine.connect():
        (holder,) = dbopt.pool.holders()
        assert holder.name == threading.current_thread().name
    dbopt.pool.resize(1, 2)
    with engine.connect(), engine.connect():
        assert "2 of 2" in late(engine)
    assert dbopt.pool.drain() == 2
    assert ask(engine) == 2


def late(engine: sa.Engine) -> str:
    engine.pool.lender.timeout = 0.05
    with pytest.raises(sa.exc.TimeoutError) as error:
        engine.connect()
    assert error.value.__cause__ is None
    return str(error.value)


def test_an_engine_is_born_with_it(make_engine: MakeEngine, postgres: PostgresServer, postgres_database: str) -> None:
    url = postgres.url(postgres_database)
    dbopt, _ = make_engine(config={"DBOPT_DATABASES": {"other": url}, "DBOPT_POOL_MAX": 6})
    engine = sa.create_engine(url, **dbopt.engine_options("other"))
    assert engine.pool.lender.maximum == 6
    assert ask(engine) == 2
    assert dbopt.optimizer.databases["other"].pool_stats().requests_num == 1
    engine.dispose()


def test_a_connection_killed_in_a_transaction_is_replaced(make_engine: MakeEngine, postgres: PostgresServer) -> None:
    dbopt, engine = make_engine()
    with engine.connect() as idle, engine.connect() as c:
        backend(idle)
        c.exec_driver_sql("INSERT INTO word VALUES (3, 'lost')")
        killed = backend(c)
        terminate(postgres, killed)
        with pytest.raises(OperationalError) as error:
            ask_on(c)
        assert error.value.connection_invalidated
        with pytest.raises(PendingRollbackError):
            ask_on(c)
        c.rollback()
        assert (ask_on(c), backend(c) != killed) == (2, True)
    assert ask(engine) == 2
    assert dbopt.optimizer.default.pool_stats().connections_lost == 1


def ask_on(c: sa.Connection) -> Any:
    return c.exec_driver_sql("SELECT count(*) FROM word").scalar()


def test_when_one_breaks_the_idle_ones_are_given_up_too(make_engine: MakeEngine, postgres: PostgresServer) -> None:
    dbopt, engine = make_engine(config={"DBOPT_POOL_CHECK_AFTER": 60})
    with contextlib.ExitStack() as many:
        backends = [backend(many.enter_context(engine.connect())) for _ in range(4)]
    terminate(postgres, *backends)
    with pytest.raises(OperationalError):
        ask(engine)
    stats = dbopt.optimizer.default.pool_stats()
    assert (stats.connections_lost, stats.pool_size) == (4, 0)
    assert ask(engine) == 2


def test_one_that_died_idle_is_noticed_before_it_is_lent(make_engine: MakeEngine, postgres: PostgresServer) -> None:
    dbopt, engine = make_engine(config={"DBOPT_POOL_CHECK_AFTER": 0})
    with engine.connect() as c:
        number = backend(c)
    terminate(postgres, number)
    assert ask(engine) == 2
    assert dbopt.optimizer.default.pool_stats().connections_lost == 1


def test_idle_connections_are_looked_at_in_the_background(make_engine: MakeEngine, postgres: PostgresServer) -> None:
    config = {"DBOPT_POOL_HEALTH_INTERVAL": 1, "DBOPT_POOL_MIN": 3, "DBOPT_POOL_IDLE_TIMEOUT": 1000}
    dbopt, engine = make_engine(config=config)
    with engine.connect() as one, engine.connect() as two:
        killed, kept = backend(one), backend(two)
    terminate(postgres, killed)
    pool = dbopt.pool
    beginning = pool.clock()
    pool.clock = pool.stock.clock = lambda: beginning + 5
    dbopt.optimizer._look_after_pools(0.0)
    stats = pool.stats()
    assert (stats.connections_lost, stats.pool_size) == (1, 3)
    with engine.connect() as one, engine.connect() as two, engine.connect() as three:
        backends = [backend(each) for each in (one, two, three)]
    assert kept in backends
    assert killed not in backends


@pytest.mark.parametrize("options", [{}, {"pool_reset_on_return": None}, {"isolation_level": "AUTOCOMMIT"}])
def test_a_look_leaves_no_transaction_behind(
    make_engine: MakeEngine, postgres: PostgresServer, options: dict[str, Any]
) -> None:
    dbopt, engine = make_engine(**options)
    with engine.connect() as c:
        number = backend(c)
        c.rollback()
    assert dbopt.pool.check() == 0
    with postgres.connect(autocommit=True) as c:
        (state,) = c.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", (number,)).fetchone()
    assert state == "idle"
    assert ask(engine) == 2


def test_a_storm_of_timeouts_passes(make_engine: MakeEngine) -> None:
    dbopt, engine = make_engine(pool_size=2, max_overflow=0, pool_timeout=0.1)
    told: list[str] = []

    def wait() -> None:
        try:
            ask(engine)
        except sa.exc.TimeoutError as error:
            told.append(str(error))

    with engine.connect(), engine.connect():
        threads = [threading.Thread(target=wait) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(told) == 30
    assert "2 of 2 are lent" in told[0]
    assert ask(engine) == 2
    stats = dbopt.pool.stats()
    assert (stats.requests_errors, stats.pool_size, stats.pool_available) == (30, 2, 2)


def test_sixteen_threads_on_eight_connections_all_get_their_turn(make_engine: MakeEngine) -> None:
    dbopt, engine = make_engine(pool_size=8, max_overflow=0)
    turns = [0] * 16
    end = time.monotonic() + 1.5

    def work(number: int) -> None:
        while time.monotonic() < end:
            ask(engine)
            turns[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(turns) > 0.2 * max(turns), turns
    assert dbopt.pool.stats().connections_num <= 8


def test_a_fork_with_connections_out_leaves_them_to_the_parent(
    make_engine: MakeEngine, postgres: PostgresServer
) -> None:
    dbopt, engine = make_engine()
    ask(engine)
    with engine.connect() as spare:
        kept_idle = backend(spare)
    c = engine.connect()
    other = engine.connect()
    c.exec_driver_sql("INSERT INTO word VALUES (4, 'of the parent')")
    mine = backend(c)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with pytest.raises(OperationalError, match="the parent process's"):
                c.exec_driver_sql("SELECT 1")
            c.rollback()
            is_other = backend(c) not in (mine, kept_idle)
            c.close()
            del other
            gc.collect()
            engine.dispose()
            code = 0 if is_other and ask(engine) == 2 else 2
            engine.dispose()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert alive(postgres, mine)
    assert backend(c) == mine
    c.commit()
    c.close()
    other.close()
    assert ask(engine) == 3
    assert dbopt.pool.stats().connections_lost == 0


def test_dispose_closes_what_is_idle_and_later_what_was_out(make_engine: MakeEngine, postgres: PostgresServer) -> None:
    _, engine = make_engine(pool_size=2, max_overflow=0, pool_timeout=1)
    with engine.connect() as c:
        with engine.connect() as idle:
            numbers = backend(c), backend(idle)
        engine.dispose()
        with engine.connect(), engine.connect():
            assert ask_on(c) == 2
    engine.dispose()
    deadline = time.monotonic() + 10
    while any(alive(postgres, number) for number in numbers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
