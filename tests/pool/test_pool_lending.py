"""Lending, parking, waiting and taking back, on a real file."""

from __future__ import annotations

import gc
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.engines.sqlite.connector import Arguments, SQLiteConnector
from flask_dbopt.errors import ConnectionReturned, DatabaseUnavailable, DBOptError, PoolTimeout
from flask_dbopt.pool.pool import Pool

Make = Callable[..., Pool]
PLAIN = Arguments()


def borrow_and_return(pool: Pool, key: Arguments = PLAIN) -> int:
    """The id of the connection that was lent; nobody refers to it afterwards."""
    connection = pool.lend(key)
    number = id(connection)
    connection.close()
    return number


def test_a_returned_connection_is_lent_again(make_pool: Make) -> None:
    pool = make_pool()
    assert borrow_and_return(pool) == borrow_and_return(pool)
    stats = pool.stats()
    assert (stats.connections_num, stats.requests_num, stats.requests_immediate) == (1, 2, 1)
    assert stats.hit_ratio == 0.5


def test_a_closed_loan_stays_closed_when_its_connection_is_lent_again(make_pool: Make) -> None:
    pool = make_pool()
    first = pool.lend(PLAIN)
    first.close()
    second = pool.lend(PLAIN)
    assert second is not first
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        first.execute("SELECT 1")
    assert second.execute("SELECT 1").fetchone() == (1,)
    second.close()
    assert pool.stats().pool_parked == 2


@pytest.mark.parametrize(
    "use",
    [
        lambda c: c.execute("SELECT 1"),
        lambda c: c.executemany("SELECT ?", []),
        lambda c: c.executescript(""),
        lambda c: c.cursor(),
        lambda c: c.commit(),
        lambda c: c.rollback(),
        lambda c: c.__enter__(),
        lambda c: c.in_transaction,
        lambda c: c.total_changes,
        lambda c: c.isolation_level,
        lambda c: setattr(c, "isolation_level", None),
        lambda c: c.create_function("f", 0, lambda: 1),
        lambda c: c.iterdump(),
        lambda c: c.backup(c),
        lambda c: c.interrupt(),
    ],
)
def test_every_use_of_a_returned_connection_raises(
    make_pool: Make, use: Callable[[sqlite3.Connection], object]
) -> None:
    connection = make_pool().lend(PLAIN)
    connection.close()
    with pytest.raises(ConnectionReturned, match="closed"):
        use(connection)


def test_a_second_close_is_harmless(make_pool: Make) -> None:
    pool = make_pool()
    connection = pool.lend(PLAIN)
    connection.close()
    connection.close()
    del connection
    assert pool.stats().pool_available == 1


def test_cursors_of_a_returned_connection_can_neither_fetch_nor_execute(make_pool: Make) -> None:
    connection = make_pool().lend(PLAIN)
    half_read = connection.execute("SELECT * FROM word")
    half_read.fetchone()
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        half_read.fetchone()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        half_read.execute("SELECT 1")


def test_a_cursor_of_the_apps_own_that_will_not_close_costs_its_connection_and_no_place(make_pool: Make) -> None:
    class Stubborn(sqlite3.Cursor):
        def close(self) -> None:
            raise RuntimeError("not now")

    pool = make_pool(maximum=1)
    for _ in range(3):
        connection = pool.lend(PLAIN)
        cursor = connection.cursor(Stubborn)
        cursor.execute("SELECT * FROM word").fetchone()
        connection.close()
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
    stats = pool.stats()
    assert (stats.pool_size, stats.connections_num, stats.returns_bad) == (0, 3, 3)
    assert not pool.stock.entries


def test_a_half_read_cursor_does_not_pin_its_snapshot_past_the_return(make_pool: Make, path: Path) -> None:
    pool = make_pool()
    connection = pool.lend(PLAIN)
    half_read = connection.execute("SELECT * FROM word")
    half_read.fetchone()
    connection.close()
    writer = sqlite3.connect(path)
    with writer:
        writer.execute("INSERT INTO word (text) VALUES ('four')")
    # Nobody reads any more, so the whole WAL can be cut.
    assert writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    writer.close()
    again = pool.lend(PLAIN)
    assert again.execute("SELECT count(*) FROM word").fetchone() == (4,)
    again.close()
    del half_read


def test_a_dropped_connection_gives_its_place_back_as_soon_as_another_is_wanted(make_pool: Make) -> None:
    pool = make_pool(maximum=1, timeout=5)
    pool.lend(PLAIN).execute("SELECT 1")
    borrow_and_return(pool)
    assert pool.stats().connections_num == 1


def test_a_connection_dropped_inside_a_reference_cycle_comes_back_while_somebody_waits(make_pool: Make) -> None:
    pool = make_pool(maximum=1, timeout=5)
    gc.disable()
    try:
        cycle: list[object] = [pool.lend(PLAIN)]
        cycle.append(cycle)
        del cycle
        borrow_and_return(pool)
    finally:
        gc.enable()


def test_a_cursor_whose_connection_variable_is_gone_keeps_working(make_pool: Make) -> None:
    pool = make_pool(maximum=1, timeout=0.2)
    cursor = pool.lend(PLAIN).execute("SELECT text FROM word ORDER BY id")
    assert pool.collect_dropped() == 0
    assert cursor.fetchall() == [("one",), ("two",), ("three",)]


def test_a_loan_whose_context_is_gone_is_taken_back(make_pool: Make) -> None:
    class Context: ...

    pool = make_pool()
    context = Context()
    connection = pool.lend(PLAIN, context=context)
    del context
    assert pool.collect_dropped() == 1
    with pytest.raises(ConnectionReturned):
        connection.execute("SELECT 1")


def test_a_context_gives_back_its_own_loans_and_no_others(make_pool: Make) -> None:
    class Context: ...

    pool = make_pool()
    mine, other = Context(), Context()
    forgotten, kept = pool.lend(PLAIN, context=mine), pool.lend(PLAIN, context=other)
    assert pool.take_back_from(mine) == 1
    with pytest.raises(ConnectionReturned):
        forgotten.execute("SELECT 1")
    assert kept.execute("SELECT 1").fetchone() == (1,)
    kept.close()


def test_the_timeout_says_who_holds_the_connections(make_pool: Make) -> None:
    heard: list[str] = []
    pool = make_pool(maximum=2, timeout=0.05, emit=lambda name, **_: heard.append(name))
    held = [pool.lend(PLAIN, borrower="GET report"), pool.lend(PLAIN, borrower="GET list")]
    with pytest.raises(
        PoolTimeout, match=r"no connection within 0\.05 s; 2 of 2 are lent \(oldest 0 s, GET report; 0 s, GET list\)"
    ) as raised:
        pool.lend(PLAIN)
    assert isinstance(raised.value, sqlite3.OperationalError)
    assert isinstance(raised.value, TimeoutError)
    assert "DBOPT_POOL_MAX" in raised.value.hint
    assert heard == ["pool_timeout"]
    assert pool.stats().requests_errors == 1
    assert pool.stats().requests_waiting == 0
    for connection in held:
        connection.close()
    borrow_and_return(pool)


def test_a_clock_that_stands_still_keeps_nobody_waiting_for_ever(make_pool: Make, clock: Any) -> None:
    pool = make_pool(maximum=1, timeout=0.1, clock=clock)
    held = pool.lend(PLAIN)
    with pytest.raises(PoolTimeout):
        pool.lend(PLAIN)
    held.close()


def test_no_more_than_max_waiting_stand_in_line(make_pool: Make) -> None:
    pool = make_pool(maximum=1, timeout=5, max_waiting=1)
    held = pool.lend(PLAIN)
    waiting = threading.Thread(target=borrow_and_return, args=(pool,))
    waiting.start()
    while not pool.stats().requests_waiting:
        time.sleep(0.001)
    with pytest.raises(PoolTimeout, match="wait already"):
        pool.lend(PLAIN)
    held.close()
    waiting.join()


def test_sixteen_threads_on_four_connections_all_get_their_turns(make_pool: Make) -> None:
    pool = make_pool(maximum=4)
    turns: Counter[int] = Counter()
    stop = time.monotonic() + 0.5

    def work(number: int) -> None:
        while time.monotonic() < stop:
            connection = pool.lend(PLAIN)
            connection.execute("SELECT count(*) FROM word").fetchone()
            connection.close()
            turns[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(turns) == 16
    assert pool.stats().requests_errors == 0
    assert len(pool.lent) == 0


def test_never_more_than_maximum_are_lent_at_a_time(make_pool: Make) -> None:
    pool = make_pool(maximum=3)
    most, lock = [0, 0], threading.Lock()

    def work() -> None:
        for _ in range(100):
            connection = pool.lend(PLAIN)
            with lock:
                most[0] += 1
                most[1] = max(most)
            time.sleep(0)
            with lock:
                most[0] -= 1
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[1] <= 3


def test_a_replaced_file_drops_the_connections_to_the_old_one(make_pool: Make, path: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    pool = make_pool(emit=lambda name, **details: heard.append(details.get("reason", name)))
    borrow_and_return(pool)
    other = sqlite3.connect(tmp_path / "other.db")
    other.executescript("CREATE TABLE word (text); INSERT INTO word VALUES ('new')")
    other.close()
    pool.connector.identity()
    (tmp_path / "other.db").replace(path)
    connection = pool.lend(PLAIN)
    assert connection.execute("SELECT text FROM word").fetchall() == [("new",)]
    connection.close()
    assert heard == ["its file was replaced"]


def test_connections_of_other_arguments_make_room(make_pool: Make) -> None:
    pool = make_pool(maximum=2)
    for key in (PLAIN, Arguments(detect_types=1), Arguments(detect_types=2)):
        borrow_and_return(pool, key)
    assert pool.stats().pool_size == 2
    assert pool.stats().connections_num == 3


def test_an_old_connection_is_replaced(make_pool: Make, clock: Any) -> None:
    pool = make_pool(max_lifetime=100, clock=clock)
    borrow_and_return(pool)
    clock.now += 101
    borrow_and_return(pool)
    assert pool.stats().connections_num == 2
    assert pool.stats().pool_size == 1


def test_a_dead_connection_is_replaced_before_it_is_lent(make_pool: Make, clock: Any) -> None:
    pool = make_pool(check_after=0.5, clock=clock)
    borrow_and_return(pool)
    sqlite3.Connection.close(pool.idle[PLAIN][0].connection)
    clock.now += 1
    connection = pool.lend(PLAIN)
    assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.close()
    assert pool.stats().connections_lost == 1


def test_a_place_is_not_lost_when_no_connection_can_be_opened(make_pool: Make, path: Path) -> None:
    pool = make_pool(maximum=1, timeout=0.2)
    path.unlink()
    path.mkdir()
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable, match="is a directory"):
            pool.lend(PLAIN)
    path.rmdir()
    borrow_and_return(pool)
    assert pool.stats().connections_errors == 3


def test_a_drained_pool_has_no_idle_connections_and_closes_lent_ones_when_they_return(make_pool: Make) -> None:
    pool = make_pool()
    lent = pool.lend(PLAIN)
    borrow_and_return(pool)
    assert pool.drain() == 1
    assert lent.execute("SELECT 1").fetchone() == (1,)
    lent.close()
    del lent
    assert pool.stats().pool_size == 0


def test_a_closed_pool_lends_nothing(make_pool: Make) -> None:
    pool = make_pool()
    pool.close()
    with pytest.raises(DBOptError, match="closed"):
        pool.lend(PLAIN)


def test_bounds_can_change_while_running(make_pool: Make) -> None:
    pool = make_pool(maximum=1, timeout=0.05)
    held = pool.lend(PLAIN)
    pool.resize(0, 2)
    second = pool.lend(PLAIN)
    pool.resize(0, 1)
    second.close()
    with pytest.raises(PoolTimeout):
        pool.lend(PLAIN)
    held.close()
    with pytest.raises(ValueError, match="min <= max"):
        pool.resize(3, 2)


def test_a_forked_child_opens_its_own_and_leaves_the_parents_alone(make_pool: Make, connector: SQLiteConnector) -> None:
    pool = make_pool(maximum=1, timeout=1)
    held = pool.lend(PLAIN)
    held.execute("BEGIN IMMEDIATE")
    held.execute("INSERT INTO word (text) VALUES ('mine')")
    child = os.fork()
    if not child:
        try:
            pool.abandon()
            held.close()  # the parent's: nothing may happen to it
            connection = pool.lend(PLAIN)
            assert connection is not held
            assert connection.execute("SELECT count(*) FROM word").fetchone() == (3,)
            connection.close()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.commit()
    assert held.execute("SELECT count(*) FROM word").fetchone() == (4,)
    held.close()
