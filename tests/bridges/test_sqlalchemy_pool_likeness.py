"""``engine.pool`` of ours behaves as QueuePool: each scene is played on both, and must leave the same account."""

from __future__ import annotations

import contextlib
import gc
import inspect
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError, InvalidRequestError, OperationalError, PendingRollbackError
from sqlalchemy.pool import QueuePool

from flask_dbopt import DBOptimizer
from flask_dbopt.bridges.sqlalchemy_pool import FairPool
from tests.bridges.conftest import Make

Scene = Callable[[sa.Engine, list[str]], None]

EVENTS = {
    "first_connect": 2,
    "connect": 2,
    "checkin": 2,
    "reset": 3,
    "invalidate": 3,
    "soft_invalidate": 3,
    "close": 2,
    "detach": 2,
    "close_detached": 1,
}


def listen(engine: sa.Engine, account: list[str], *names: str) -> None:
    for name in names:
        count = 3 if name == "checkout" else EVENTS[name]
        arguments = ", ".join(f"a{number}" for number in range(count))
        event.listen(engine, name, eval(f"lambda {arguments}: account.append({name!r})", {"account": account}))


def one(c: sa.Connection) -> Any:
    return c.exec_driver_sql("SELECT 1").scalar()


def loans_and_returns(engine: sa.Engine, account: list[str]) -> None:
    for _ in range(3):
        with engine.connect() as c:
            account.append(str(one(c)))
    account.append(f"{engine.pool.checkedin()} {engine.pool.checkedout()}")


def a_raw_connection(engine: sa.Engine, account: list[str]) -> None:
    raw = engine.raw_connection()
    cursor = raw.cursor()
    cursor.execute("INSERT INTO word (text) VALUES ('raw')")
    raw.commit()
    account += [
        str(cursor.rowcount),
        str(raw.is_valid),
        str(raw.is_detached),
        type(raw.driver_connection).__mro__[-2].__name__,
    ]
    raw.rollback()
    raw.close()
    raw.close()
    account += [str(raw.is_valid), str(engine.pool.checkedout())]
    with pytest.raises(AssertionError):
        raw.cursor()


def info_of_connections(engine: sa.Engine, account: list[str]) -> None:
    for number in range(2):
        with engine.connect() as c:
            account.append(str(c.info.get("mark")))
            c.info["mark"] = number
            c.connection.record_info["kept"] = number
    with engine.connect() as c:
        c.invalidate()
        account += [str(c.info.get("mark")), str(c.connection.record_info.get("kept"))]


def an_open_transaction(engine: sa.Engine, account: list[str]) -> None:
    raw = engine.raw_connection()
    raw.cursor().execute("INSERT INTO word (text) VALUES ('left open')")
    raw.close()
    with engine.connect() as c:
        account.append(str(c.exec_driver_sql("SELECT count(*) FROM word WHERE text = 'left open'").scalar()))
        account.append(str(c.connection.dbapi_connection.in_transaction))


def invalidation(engine: sa.Engine, account: list[str]) -> None:
    with engine.connect() as c:
        one(c)
        c.invalidate()
        account.append(str(c.invalidated))
        with pytest.raises(PendingRollbackError):
            one(c)
        c.rollback()
        account.append(str(one(c)))
    account.append(f"{engine.pool.checkedin()} {engine.pool.checkedout()}")


def soft_invalidation(engine: sa.Engine, account: list[str]) -> None:
    raw = engine.raw_connection()
    first = id(raw.dbapi_connection)
    raw.invalidate(soft=True)
    account.append(str(raw.is_valid))
    raw.close()
    time.sleep(0.02)  # SQLAlchemy compares two moments
    with engine.connect() as c:
        account += [str(one(c)), str(id(c.connection.dbapi_connection) == first and False)]


def a_detached_connection(engine: sa.Engine, account: list[str]) -> None:
    with engine.connect() as c:
        one(c)
        c.detach()
        account += [str(c.connection.is_detached), f"{engine.pool.checkedin()} {engine.pool.checkedout()}"]
        driver = c.connection.dbapi_connection
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        driver.execute("SELECT 1")


def a_closed_driver_connection(engine: sa.Engine, account: list[str]) -> None:
    with engine.connect() as c:
        driver = c.connection.dbapi_connection
        driver.close()
        with pytest.raises(sa.exc.ProgrammingError, match="closed"):
            one(c)
        account.append(str(c.invalidated))
    with engine.connect() as c:
        account.append(str(one(c)))


def a_dropped_connection(engine: sa.Engine, account: list[str]) -> None:
    raw = engine.raw_connection()
    raw.cursor().execute("INSERT INTO word (text) VALUES ('dropped')")
    del raw
    gc.collect()
    account.append(f"{engine.pool.checkedin()} {engine.pool.checkedout()}")
    c = engine.connect()
    account.append(str(c.exec_driver_sql("SELECT count(*) FROM word WHERE text = 'dropped'").scalar()))
    c.loop = c  # type: ignore[attr-defined]
    del c
    gc.collect()
    account.append(f"{engine.pool.checkedin()} {engine.pool.checkedout()}")


def dispose_in_the_middle(engine: sa.Engine, account: list[str]) -> None:
    with engine.connect() as c:
        one(c)
        engine.dispose()
        account += [str(one(c)), f"{engine.pool.checkedin()} {engine.pool.checkedout()}"]
        with engine.connect() as other:
            account.append(str(one(other)))
    account.append(f"{engine.pool.checkedin()} {engine.pool.checkedout()}")


def dispose_without_closing(engine: sa.Engine, account: list[str]) -> None:
    with engine.connect() as c:
        one(c)
        engine.dispose(close=False)
        account.append(f"{engine.pool.checkedin()} {engine.pool.checkedout()}")
        with engine.connect() as other:
            account += [str(one(other)), str(one(c))]


def a_listener_that_refuses(engine: sa.Engine, account: list[str]) -> None:
    refusals = [DisconnectionError("no"), DisconnectionError("no"), None, ValueError("never"), None]

    @event.listens_for(engine, "checkout")
    def refuse(connection: Any, record: Any, borrowed: Any) -> None:
        account.append("checkout")
        refusal = refusals.pop(0)
        if refusal is not None:
            raise refusal

    with pytest.raises(InvalidRequestError):
        engine.connect()
    with engine.connect() as c:
        account.append(str(one(c)))
    with pytest.raises(ValueError, match="never"):
        engine.connect()
    with engine.connect() as c:
        account.append(str(one(c)))
    account.append(f"{engine.pool.checkedin()} {engine.pool.checkedout()}")


def a_listener_that_fails_to_reset(engine: sa.Engine, account: list[str]) -> None:
    faults = [ValueError("cannot reset")]

    @event.listens_for(engine, "reset")
    def reset(connection: Any, record: Any, state: Any) -> None:
        account.append(f"reset {state.transaction_was_reset}")
        if faults:
            raise faults.pop()

    for _ in range(2):
        with engine.connect() as c:
            one(c)
    account.append(f"{engine.pool.checkedin()} {engine.pool.checkedout()}")


def listeners_that_come_and_go(engine: sa.Engine, account: list[str]) -> None:
    def seen(connection: Any, record: Any) -> None:
        account.append("seen")

    event.listen(engine, "checkin", seen)
    with engine.connect():
        pass
    engine.dispose()
    with engine.connect():
        pass
    event.remove(engine, "checkin", seen)
    with engine.connect():
        pass


def isolation_of_one_loan(engine: sa.Engine, account: list[str]) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        c.exec_driver_sql("INSERT INTO word (text) VALUES ('at once')")
        account.append(str(c.connection.dbapi_connection.isolation_level))
    with engine.connect() as c:
        account.append(str(c.connection.dbapi_connection.isolation_level))
        account.append(str(c.exec_driver_sql("SELECT count(*) FROM word WHERE text = 'at once'").scalar()))


def no_connection_to_be_had(engine: sa.Engine, account: list[str]) -> None:
    faults = [sqlite3.OperationalError("nobody there")]

    @event.listens_for(engine, "do_connect")
    def refuse(dialect: Any, record: Any, arguments: Any, keywords: Any) -> None:
        if faults:
            raise faults.pop()

    with pytest.raises(OperationalError, match="nobody there"):
        engine.connect()
    account.append(f"{engine.pool.checkedin()} {engine.pool.checkedout()}")
    with engine.connect() as c:
        account.append(str(one(c)))


def no_connection_to_be_had_again(engine: sa.Engine, account: list[str]) -> None:
    faults: list[Exception] = []

    @event.listens_for(engine, "do_connect")
    def refuse(dialect: Any, record: Any, arguments: Any, keywords: Any) -> None:
        if faults:
            raise faults.pop()

    with engine.connect() as c:
        one(c)
        c.invalidate()
    faults.append(sqlite3.OperationalError("nobody there"))
    with pytest.raises(OperationalError, match="nobody there"):
        engine.connect()
    account.append(f"{engine.pool.checkedin()} {engine.pool.checkedout()}")
    with engine.connect() as c:
        account.append(str(one(c)))


def a_listener_that_connects_by_itself(engine: sa.Engine, account: list[str]) -> None:
    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, keywords: Any) -> Any:
        account.append("do_connect")
        return sqlite3.connect(":memory:", check_same_thread=False)

    with engine.connect() as c:
        account += [str(one(c)), type(c.connection.dbapi_connection).__name__]


SCENES: list[Scene] = [
    loans_and_returns, a_raw_connection, info_of_connections, an_open_transaction, invalidation, soft_invalidation,
    a_detached_connection, a_closed_driver_connection, a_dropped_connection, dispose_in_the_middle,
    dispose_without_closing, a_listener_that_refuses, a_listener_that_fails_to_reset, listeners_that_come_and_go,
    isolation_of_one_loan, no_connection_to_be_had, no_connection_to_be_had_again, a_listener_that_connects_by_itself,
]  # fmt: skip

OPTIONS: list[dict[str, Any]] = [
    {},
    {"pool_pre_ping": True},
    {"pool_reset_on_return": "commit"},
    {"pool_reset_on_return": None},
    {"pool_use_lifo": True, "pool_recycle": 3600},
    {"echo_pool": "debug"},
]


@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")  # of theirs, by Python 3.13
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_both_pools_give_the_same_account(
    scene: Scene, options: dict[str, Any], dbopt: DBOptimizer, make_engine: Make
) -> None:
    accounts = []
    for is_ours in (False, True):
        engine = make_engine(**options)
        if is_ours:
            dbopt.attach(engine)
        assert type(engine.pool) is (FairPool if is_ours else QueuePool)
        account: list[str] = []
        with engine.begin() as c:
            c.exec_driver_sql("DELETE FROM word WHERE id > 2000")
        engine.dispose()
        # What is lent when the pool is disposed of we close as it comes back, SQLAlchemy leaves it to the collector.
        silent = {"close"} if scene in (dispose_in_the_middle, dispose_without_closing) else set()
        listen(engine, account, *sorted(set(EVENTS) - silent))
        scene(engine, account)
        accounts.append(account)
        with contextlib.suppress(Exception):
            engine.dispose()
    gc.collect()
    theirs, ours = accounts
    assert ours == theirs


def test_our_pool_says_what_queue_pools_say(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(pool_size=2, max_overflow=3, pool_timeout=7)
    dbopt.attach(engine)
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    assert (pool.size(), pool.overflow(), pool.checkedin(), pool.checkedout(), pool.timeout()) == (2, -2, 0, 0, 7)
    with engine.connect(), engine.connect(), engine.connect():
        assert (pool.overflow(), pool.checkedout()) == (1, 3)
        assert pool.status() == (
            "Pool size: 2  Connections in pool: 0 Current Overflow: 1 Current Checked out connections: 3"
        )
    assert pool.checkedin() == 2
    names = list(inspect.signature(type(pool)).parameters)
    assert {"creator", "pool_size", "max_overflow", "timeout", "use_lifo"} <= set(names)


def test_a_pool_made_anew_has_the_same_options_and_listeners(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(
        pool_size=2, max_overflow=3, pool_timeout=7, pool_recycle=90, pool_pre_ping=True, pool_reset_on_return="commit"
    )
    seen = []
    event.listen(engine, "connect", lambda connection, record: seen.append(record))
    dbopt.attach(engine)
    before = engine.pool
    engine.dispose()
    after = engine.pool
    assert after is not before
    for name in ("size", "timeout", "checkedin"):
        assert getattr(after, name)() == getattr(before, name)()
    for name in ("_recycle", "_pre_ping", "_reset_on_return", "_max_overflow", "_timeout", "_dialect"):
        assert getattr(after, name) == getattr(before, name)
    with engine.connect():
        pass
    assert len(seen) == 1
