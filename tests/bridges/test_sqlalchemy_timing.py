"""What is timed by a dialect's events and methods: statements, and the ends of transactions that did something."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from flask_dbopt import DBOptimizer
from tests.bridges.conftest import Make, MakeSite, ask

INSERT = "INSERT INTO word (text) VALUES ('new')"


@pytest.fixture(params=[QueuePool, NullPool, StaticPool])
def foreign(request: pytest.FixtureRequest, dbopt: DBOptimizer, path: Path) -> Iterator[sa.Engine]:
    """An engine of another database system: SQLite under another name, on pools of ours and of SQLAlchemy's."""
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=request.param)
    engine.dialect.driver = "another"
    dbopt.attach(engine, "foreign")
    yield engine
    engine.dispose()


def ends(dbopt: DBOptimizer) -> dict[str, tuple[int, int]]:
    """How often transactions were ended, and with how many errors, by the word that ended them."""
    found = {each.query: (each.calls, each.errors) for each in dbopt.monitor.queries()}
    return {word: found[word] for word in ("COMMIT", "ROLLBACK") if word in found}


def test_the_ends_of_transactions_are_timed(dbopt: DBOptimizer, foreign: sa.Engine) -> None:
    for _ in range(3):
        with foreign.begin() as c:
            c.exec_driver_sql(INSERT)
    with foreign.connect() as c:
        c.exec_driver_sql(INSERT)
        c.rollback()
        c.exec_driver_sql(INSERT)
    with Session(foreign) as session:
        session.execute(sa.text(INSERT))
        session.commit()
    assert ends(dbopt) == {"COMMIT": (4, 0), "ROLLBACK": (2, 0)}
    assert next(each.total_exec_time for each in dbopt.monitor.queries() if each.query == "COMMIT") > 0
    assert ask(foreign) == 2004


def test_what_only_read_has_no_end_that_is_told(dbopt: DBOptimizer, foreign: sa.Engine) -> None:
    for sql in ("SELECT count(*) FROM word", "WITH w AS (SELECT 1) SELECT * FROM w", "-- so\n VALUES (1)", "SELEC"):
        with foreign.connect() as c:
            if sql == "SELEC":
                with pytest.raises(OperationalError):
                    c.exec_driver_sql(sql)
            else:
                c.exec_driver_sql(sql).all()
            c.commit()
    with foreign.begin() as c:
        c.exec_driver_sql(INSERT)
    with foreign.connect() as c:  # the same connection, in a transaction of its own
        c.exec_driver_sql("SELECT 1")
    assert ends(dbopt) == {"COMMIT": (1, 0)}


def test_a_connection_that_commits_by_itself_has_no_ends(dbopt: DBOptimizer, foreign: sa.Engine) -> None:
    with foreign.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        c.exec_driver_sql(INSERT)
        c.commit()
    assert ends(dbopt) == {}
    with foreign.begin() as c:
        c.exec_driver_sql(INSERT)
    assert ends(dbopt) == {"COMMIT": (1, 0)}


def test_an_end_that_fails_is_told_as_an_error_and_reaches_the_app(dbopt: DBOptimizer, foreign: sa.Engine) -> None:
    with foreign.begin() as c:
        c.exec_driver_sql("CREATE TABLE part (of INTEGER REFERENCES word DEFERRABLE INITIALLY DEFERRED)")
    with foreign.connect() as c:
        c.exec_driver_sql("PRAGMA foreign_keys = ON")
        c.exec_driver_sql("INSERT INTO part VALUES (-1)")
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            c.commit()
    assert ends(dbopt)["COMMIT"] == (1, 1)


def test_a_slow_commit_is_caught_as_a_slow_statement(make_site: MakeSite, path: Path) -> None:
    dbopt = make_site(DBOPT_MONITOR_SLOW_SECONDS=0.0)
    engine = sa.create_engine(f"sqlite:///{path}")
    engine.dialect.driver = "another"
    dbopt.attach(engine, "foreign")
    with engine.begin() as c:
        c.exec_driver_sql(INSERT)
    assert "COMMIT" in [sample.record[0] for sample in dbopt.optimizer.monitor.recorder.slow]
    engine.dispose()


def test_a_creators_connection_tells_its_ends_once(dbopt: DBOptimizer, make_engine: Make, path: Path) -> None:
    engine = make_engine("sqlite://", creator=lambda: sqlite3.connect(path, check_same_thread=False))
    dbopt.attach(engine)
    with engine.begin() as c:
        c.exec_driver_sql(INSERT)
    with engine.begin() as c:
        c.exec_driver_sql("CREATE TABLE more (id)")  # which this driver begins no transaction for
    assert ends(dbopt) == {"COMMIT": (1, 0)}


def test_connections_of_our_class_tell_their_ends_once(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    for _ in range(2):
        with engine.begin() as c:
            c.exec_driver_sql(INSERT)
    assert ends(dbopt) == {"COMMIT": (2, 0)}
    assert not {"do_commit", "do_rollback"} & vars(engine.dialect).keys()


def test_a_dialect_is_left_as_it_was(make_site: MakeSite, path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    engine.dialect.driver = "another"
    calls: list[str] = []
    own = engine.dialect.do_commit

    def counted(connection: Any) -> None:
        calls.append("commit")
        own(connection)

    engine.dialect.do_commit = counted  # type: ignore[method-assign]
    for turn in range(3):
        dbopt = make_site()
        dbopt.attach(engine, "foreign")
        with engine.begin() as c:
            c.exec_driver_sql(INSERT)
        assert ends(dbopt) == {"COMMIT": (1, 0)}
        assert len(calls) == turn + 1
        dbopt.optimizer.close()
    last = make_site(DBOPT_MONITOR_ENABLED=False)
    last.attach(engine, "foreign")
    last.optimizer.close()
    del last
    fresh = make_site()
    fresh.attach(engine, "foreign")
    wrapped = engine.dialect.do_commit
    engine.dialect.do_commit = lambda connection: wrapped(connection)  # type: ignore[method-assign]
    fresh.optimizer.close()
    newest = make_site()
    newest.attach(engine, "foreign")
    with engine.begin() as c:
        c.exec_driver_sql(INSERT)
    assert (ends(fresh), ends(newest)) == ({}, {"COMMIT": (1, 0)})
    engine.dispose()


def test_threads_that_all_meet_a_connection_of_anothers_time_it_once(
    dbopt: DBOptimizer, make_engine: Make, path: Path
) -> None:
    barrier = threading.Barrier(8)

    def connect() -> sqlite3.Connection:
        barrier.wait(10)
        return sqlite3.connect(path, check_same_thread=False)

    engine = make_engine("sqlite://", creator=connect, poolclass=NullPool)
    dbopt.attach(engine)
    threads = [threading.Thread(target=ask, args=(engine,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def asked() -> int:
        return sum(each.calls for each in dbopt.monitor.queries() if "word" in each.query)

    before = asked()
    assert before <= 8
    barrier = threading.Barrier(1)
    ask(engine)
    assert asked() == before + 1
