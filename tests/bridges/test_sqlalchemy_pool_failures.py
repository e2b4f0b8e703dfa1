"""What goes wrong around an engine's pool on a SQLite file, each by its name."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError, IntegrityError, OperationalError, PendingRollbackError, ProgrammingError
from sqlalchemy.orm import Session

from flask_dbopt import DBOptimizer, signals
from tests.bridges.conftest import Make, MakeSite, ask, fill, lender


def handles(path: Path) -> int:
    """Descriptors of this process on the file, its WAL and its index."""
    links = []
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(number.readlink()))
    return sum(link.startswith(str(path)) for link in links)


# --- the file


def test_a_replaced_file_is_noticed_at_the_next_loan(
    dbopt: DBOptimizer, make_engine: Make, path: Path, tmp_path: Path
) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    with engine.connect(), engine.connect():
        pass
    assert ask(engine) == 2000
    for name in ("app.db-wal", "app.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    fill(tmp_path / "new.db", 5)
    (tmp_path / "new.db").replace(path)
    assert [ask(engine), ask(engine)] == [5, 5]
    engine.dispose()
    dbopt.optimizer.cache.let_go()
    assert handles(path) == 0


def test_a_file_replaced_while_connections_are_out_is_noticed_when_they_come_back(
    dbopt: DBOptimizer, make_engine: Make, path: Path, tmp_path: Path
) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    with engine.connect() as c:
        assert c.exec_driver_sql("SELECT count(*) FROM word").scalar() == 2000
        fill(tmp_path / "new.db", 5)
        (tmp_path / "new.db").replace(path)
        assert ask(engine) == 5
        c.invalidate()
        c.rollback()
        assert c.exec_driver_sql("SELECT count(*) FROM word").scalar() == 5
    assert [ask(engine), ask(engine)] == [5, 5]


def test_a_file_replaced_just_before_a_connection_is_opened_anew_is_told_from_the_old_one(
    dbopt: DBOptimizer, make_engine: Make, path: Path, tmp_path: Path
) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    assert ask(engine) == 2000
    fill(tmp_path / "new.db", 5)

    @event.listens_for(engine, "checkout")
    def replace(connection: Any, record: Any, borrowed: Any) -> None:
        if (tmp_path / "new.db").exists():
            (tmp_path / "new.db").replace(path)
            raise DisconnectionError("the file is another")

    assert [ask(engine), ask(engine)] == [5, 5]
    assert lender(engine).stats().connections_num == 3, "the one in between is not trusted"


def test_a_deleted_file_is_not_read_any_more(dbopt: DBOptimizer, make_engine: Make, path: Path) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    assert ask(engine) == 2000
    path.unlink()
    with pytest.raises(OperationalError, match="no such table"):
        ask(engine)


# --- stale snapshots


def test_a_half_read_result_leaves_nobody_an_old_state(dbopt: DBOptimizer, make_engine: Make, path: Path) -> None:
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=1)
    dbopt.attach(engine)
    with engine.connect() as c:
        half_read = c.exec_driver_sql("SELECT text FROM word ORDER BY id")
        assert half_read.fetchone() == ("word0",)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("DELETE FROM word WHERE id > 10")
        other.commit()
    assert (lender(engine).stats().pool_parked, ask(engine)) == (1, 10)
    assert len(half_read.fetchall()) == 1999, "it is still read to its end"
    del half_read
    gc.collect()
    assert (lender(engine).stats().pool_parked, ask(engine), engine.pool.checkedin()) == (0, 10, 1)


def test_a_result_that_was_read_to_its_end_keeps_no_connection_from_anybody(
    dbopt: DBOptimizer, make_engine: Make
) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    kept = []
    for _ in range(5):
        with engine.connect() as c:
            kept.append(c.exec_driver_sql("SELECT text FROM word"))
            assert len(kept[-1].all()) == 2000
    assert lender(engine).stats().connections_num == 1


# --- who borrows


def test_a_commit_that_failed_leaves_no_lock_and_nothing_to_the_next_borrower(
    dbopt: DBOptimizer, make_engine: Make, path: Path
) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    with engine.begin() as c:
        c.exec_driver_sql("CREATE TABLE part (of INTEGER REFERENCES word DEFERRABLE INITIALLY DEFERRED)")
    with Session(engine) as session:
        session.execute(sa.text("PRAGMA foreign_keys = ON"))
        session.execute(sa.text("INSERT INTO part VALUES (-1)"))
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            session.commit()
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("INSERT INTO word (text) VALUES ('another process has its turn')")
        other.commit()
    with engine.begin() as c:
        assert c.exec_driver_sql("SELECT * FROM part").all() == []
        c.exec_driver_sql("INSERT INTO part VALUES (1)")
    assert lender(engine).stats().returns_bad == 1


def test_a_connection_that_the_app_closed_for_real_is_not_lent_again(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(pool_reset_on_return=None)
    dbopt.attach(engine)
    for _ in range(3):
        loan = engine.raw_connection()
        loan.dbapi_connection.close()  # type: ignore[union-attr]
        loan.close()
    assert ask(engine) == 2000
    stats = lender(engine).stats()
    assert (stats.pool_size, stats.connections_num) == (1, 4)


def test_a_thread_that_dies_with_a_connection_gives_it_back(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=5)
    dbopt.attach(engine)

    def die() -> None:
        c = engine.connect()
        c.exec_driver_sql("INSERT INTO word (text) VALUES ('unsaid')")

    for _ in range(3):
        thread = threading.Thread(target=die)
        thread.start()
        thread.join()
    assert ask(engine) == 2000


def test_a_connection_in_a_reference_cycle_comes_back_while_others_wait(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=10)
    dbopt.attach(engine)
    gc.collect()
    gc.disable()
    try:
        c = engine.connect()
        c.loop = c  # type: ignore[attr-defined]
        del c
        assert ask(engine) == 2000
    finally:
        gc.enable()


def test_the_garbage_collector_may_come_in_the_middle_of_the_pools_own_work(
    dbopt: DBOptimizer, make_engine: Make
) -> None:
    """A finalizer that waited for a lock which its own thread holds would wait for ever."""
    engine = make_engine(pool_size=2, max_overflow=0, pool_timeout=5)
    dbopt.attach(engine)
    pool = lender(engine)
    for lock in (pool.lock, pool.stock.lock, pool.line.lock):
        c = engine.connect()
        with lock:
            del c
            gc.collect()
        assert (engine.pool.checkedout(), engine.pool.checkedin()) == (0, 1)
        assert ask(engine) == 2000


def test_sixteen_threads_on_eight_connections_all_get_their_turn(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(pool_size=8, max_overflow=0, pool_timeout=30)
    dbopt.attach(engine)
    turns = [0] * 16
    start = threading.Barrier(17)
    end = time.monotonic() + 60

    def work(number: int) -> None:
        start.wait()
        while time.monotonic() < end:
            with engine.connect() as c:
                c.exec_driver_sql("SELECT text FROM word WHERE id = ?", (number + 1,)).fetchone()
                time.sleep(0.001)
            turns[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    start.wait()
    end = time.monotonic() + 1
    for thread in threads:
        thread.join()
    assert min(turns) > 0.2 * max(turns), turns
    stats = lender(engine).stats()
    assert (stats.connections_num, stats.requests_errors) == (8, 0)


def test_a_storm_of_timeouts_leaves_every_connection_in_its_place(dbopt: DBOptimizer, make_engine: Make) -> None:
    engine = make_engine(pool_size=2, max_overflow=0, pool_timeout=0.02)
    dbopt.attach(engine)
    late: list[str] = []

    def wait() -> None:
        try:
            engine.connect().close()
        except sa.exc.TimeoutError as error:
            late.append(str(error))

    with engine.connect(), engine.connect():
        threads = [threading.Thread(target=wait) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(late) == 40
    assert all("2 of 2 are lent" in each for each in late)
    with engine.connect(), engine.connect():
        assert engine.pool.checkedout() == 2
    stats = lender(engine).stats()
    assert (stats.pool_size, stats.pool_available, stats.requests_errors) == (2, 2, 40)


def test_a_leak_is_named_and_its_next_loan_traced(
    make_site: MakeSite, make_engine: Make, caplog: pytest.LogCaptureFixture
) -> None:
    dbopt = make_site(DBOPT_POOL_LEAK_AFTER=0.05)
    engine = make_engine()
    dbopt.attach(engine)
    site = next(iter(dbopt._optimizers))
    kept: list[sa.Connection] = []
    told: list[dict[str, Any]] = []

    def tell(sender: Any, **details: Any) -> None:
        told.append(details)

    @site.get("/")
    def forgetful() -> str:
        kept.append(engine.connect())
        return ""

    with signals.connection_leaked.connected_to(tell), caplog.at_level(logging.WARNING, "flask_dbopt"):
        for _ in range(2):
            site.test_client().get("/")
            time.sleep(0.06)
            dbopt.optimizer._look_after_pools(0.0)
        kept.pop().close()
        kept.pop().close()
    assert [each["borrower"] for each in told] == ["GET forgetful"] * 2
    assert "engine.connect()" in told[1]["stack"]
    assert any("gave its connection back after" in line for line in caplog.messages)


def test_dispose_in_the_middle_of_a_request_frees_every_place(make_site: MakeSite, make_engine: Make) -> None:
    dbopt = make_site()
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=0.5)
    dbopt.attach(engine)
    site = next(iter(dbopt._optimizers))

    @site.get("/")
    def index() -> str:
        with Session(engine) as session:
            session.execute(sa.text("INSERT INTO word (text) VALUES ('mine')"))
            engine.dispose()
            session.commit()
        with engine.connect() as c:
            engine.dispose()
            found = [c.exec_driver_sql("SELECT count(*) FROM word").scalar(), ask(engine)]
        return str(found)

    assert site.test_client().get("/").text == "[2001, 2001]"
    assert (engine.pool.checkedin(), engine.pool.checkedout()) == (1, 0)
    assert lender(engine).stats().pool_size == 1


def test_dispose_while_threads_ask_breaks_none_of_them(dbopt: DBOptimizer, make_engine: Make, path: Path) -> None:
    engine = make_engine(pool_size=3, max_overflow=0)
    dbopt.attach(engine)
    answers: list[Any] = []

    def work() -> None:
        for _ in range(60):
            answers.append(ask(engine))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        engine.dispose()
        time.sleep(0.002)
    assert answers == [2000] * 360
    assert (engine.pool.checkedout(), len(lender(engine).line.free)) == (0, 3)
    engine.dispose()
    gc.collect()
    assert lender(engine).stats().pool_size == 0


# --- forks


def in_child(work: Callable[[], bool]) -> None:
    """True in a forked child, or this test fails."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fork_with_connections_out_leaves_them_to_the_parent(
    dbopt: DBOptimizer, make_engine: Make, path: Path
) -> None:
    engine = make_engine(pool_size=2, max_overflow=0, pool_timeout=1)
    dbopt.attach(engine)
    ask(engine)
    c = engine.connect()
    other = engine.connect()
    c.exec_driver_sql("INSERT INTO word (text) VALUES ('of the parent')")

    def work() -> bool:
        with pytest.raises(ProgrammingError, match="the parent process's"):
            c.exec_driver_sql("SELECT 1")
        with pytest.raises(PendingRollbackError):
            c.exec_driver_sql("SELECT 1")
        c.rollback()
        assert c.exec_driver_sql("SELECT count(*) FROM word").scalar() == 2000
        c.close()
        nonlocal other
        del other
        gc.collect()
        with engine.connect(), engine.connect():
            return bool(ask_elsewhere() == 2000 and engine.pool.checkedout() == 2)

    def ask_elsewhere() -> Any:
        with contextlib.closing(sqlite3.connect(path)) as plain:
            return plain.execute("SELECT count(*) FROM word").fetchone()[0]

    in_child(work)
    assert c.in_transaction()
    c.commit()
    c.close()
    other.close()
    assert ask(engine) == 2001
    assert engine.pool.checkedout() == 0


def test_idle_connections_are_closed_before_a_fork(dbopt: DBOptimizer, make_engine: Make, path: Path) -> None:
    engine = make_engine()
    dbopt.attach(engine)
    with engine.connect(), engine.connect():
        pass
    dbopt.optimizer.cache.let_go()
    assert handles(path) > 0
    in_child(lambda: handles(path) == 0 and ask(engine) == 2000)
    assert ask(engine) == 2000


# --- upkeep


def test_what_nobody_needs_is_closed_and_what_is_kept_is_looked_at(make_site: MakeSite, make_engine: Make) -> None:
    dbopt = make_site(DBOPT_POOL_MIN=2, DBOPT_POOL_IDLE_TIMEOUT=1, DBOPT_POOL_HEALTH_INTERVAL=1)
    engine = make_engine()
    dbopt.attach(engine)
    with contextlib.ExitStack() as many:
        for _ in range(6):
            many.enter_context(engine.connect())
    assert engine.pool.checkedin() == 6
    pool = lender(engine)
    beginning = pool.clock()
    pool.clock = pool.stock.clock = lambda: beginning + 5
    dbopt.optimizer._look_after_pools(0.0)
    assert engine.pool.checkedin() == 2
    for entry in pool.stock.idle():
        sqlite3.Connection.close(entry.connection.record.dbapi_connection)
    pool.clock = pool.stock.clock = lambda: beginning + 10
    dbopt.optimizer._look_after_pools(0.0)
    assert (pool.stats().connections_lost, engine.pool.checkedin()) == (2, 2), "and as many are opened ahead of need"
    assert ask(engine) == 2000


def test_one_that_died_idle_is_not_lent(make_site: MakeSite, make_engine: Make) -> None:
    dbopt = make_site(DBOPT_POOL_CHECK_AFTER=0)
    engine = make_engine()
    dbopt.attach(engine)
    ask(engine)
    (entry,) = lender(engine).stock.idle()
    sqlite3.Connection.close(entry.connection.record.dbapi_connection)
    del entry
    assert ask(engine) == 2000
    assert lender(engine).stats().connections_lost == 1
    with engine.connect() as c:
        c.detach()
    assert ask(engine) == 2000
    assert lender(engine).stats().connections_lost == 1, "one that was taken away is no loss"
