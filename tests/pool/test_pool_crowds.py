"""Threads that die, wait and time out, processes that fork and are killed, and pools that end meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.engines.sqlite.connector import Arguments, SQLiteConnector
from flask_dbopt.errors import ConnectionReturned, DBOptError, PoolTimeout
from flask_dbopt.pool.entry import Entry
from flask_dbopt.pool.line import Line
from flask_dbopt.pool.pool import Pool

Make = Callable[..., Pool]
Count = Callable[[Pool], int]
ANY_THREAD = Arguments(check_same_thread=False)
INSERT = "INSERT INTO word (text) VALUES ('more')"
COUNT = "SELECT count(*) FROM word"
DESCRIPTORS = Path("/proc/self/fd")


def in_threads(number: int, work: Callable[[], object]) -> list[object]:
    """What ``work`` gave or raised in each of some threads at once."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


# --- threads ---


def test_a_thread_that_dies_while_holding_gives_its_place_back(make_pool: Make, count: Count) -> None:
    pool = make_pool(maximum=1, timeout=5)

    def die() -> None:
        connection = pool.lend(ANY_THREAD)
        connection.execute(INSERT)
        assert connection.in_transaction

    thread = threading.Thread(target=die)
    thread.start()
    thread.join()
    assert len(pool.lent) == 1
    assert count(pool) == 3  # what it had not committed is undone


def test_a_thread_that_dies_while_a_global_holds_its_connection_is_named_as_ended(make_pool: Make) -> None:
    pool = make_pool(maximum=1, timeout=0.05)
    kept: list[Any] = []
    thread = threading.Thread(target=lambda: kept.append(pool.lend(ANY_THREAD)))
    thread.start()
    thread.join()
    with pytest.raises(PoolTimeout, match="a thread that has ended"):
        pool.lend(ANY_THREAD)
    kept.pop().close()


def test_a_storm_of_timeouts_leaves_every_place_free(make_pool: Make, count: Count) -> None:
    heard: list[str] = []
    pool = make_pool(maximum=2, timeout=0.05, emit=lambda name, **_: heard.append(name))
    held = [pool.lend(ANY_THREAD, None, "GET slow"), pool.lend(ANY_THREAD, None, "GET slower")]
    errors = in_threads(40, lambda: pool.lend(ANY_THREAD))
    assert len(errors) == 40
    assert all(isinstance(error, PoolTimeout) for error in errors)
    assert heard.count("pool_timeout") == 40
    assert not pool.line.waiters
    while held:
        held.pop().close()
    assert len(pool.line.free) == 2
    assert pool.line.is_calm
    stats = pool.stats()
    assert (stats.requests_num, stats.requests_errors, stats.requests_queued) == (42, 40, 40)
    assert count(pool) == 3


def test_timeouts_and_hand_overs_at_the_same_moment_lose_no_place(make_pool: Make) -> None:
    pool = make_pool(maximum=2)

    def work() -> tuple[int, int]:
        served = refused = 0
        stop = time.monotonic() + 0.4
        while time.monotonic() < stop:
            try:
                connection = pool.lend(ANY_THREAD, timeout=0.002)
            except PoolTimeout:
                refused += 1
                continue
            time.sleep(0.001)
            connection.close()
            served += 1
        return served, refused

    found = in_threads(12, work)
    assert all(isinstance(each, tuple) and each[0] for each in found), found
    assert len(pool.line.free) == 2
    assert pool.line.is_calm
    assert not pool.lent


def test_a_receiver_of_the_timeout_may_ask_the_pool(make_pool: Make) -> None:
    asked: list[int] = []
    pool = make_pool(maximum=1, timeout=0.01, emit=lambda *_, **__: asked.append(pool.stats().requests_waiting))
    held = pool.lend(ANY_THREAD)
    with pytest.raises(PoolTimeout):
        pool.lend(ANY_THREAD)
    assert asked == [0]
    held.close()


def test_an_interrupt_while_waiting_leaves_the_line(make_pool: Make, count: Count) -> None:
    class Interrupted(BaseException): ...

    def interrupt(*_: Any) -> None:
        raise Interrupted

    pool = make_pool(maximum=1, timeout=5)
    held = pool.lend(ANY_THREAD)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            pool.lend(ANY_THREAD)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not pool.line.waiters
    held.close()
    del held
    assert count(pool) == 3


def test_a_place_is_handed_to_one_who_has_waited_although_its_borrower_wants_another(make_pool: Make) -> None:
    pool = make_pool(maximum=1, timeout=5)
    is_served = threading.Event()

    def wait() -> None:
        connection = pool.lend(ANY_THREAD)
        is_served.set()
        connection.close()

    held = pool.lend(ANY_THREAD)
    thread = threading.Thread(target=wait)
    thread.start()
    while not pool.line.waiters:
        time.sleep(0.001)
    time.sleep(0.005)
    held.close()
    held = pool.lend(ANY_THREAD)
    assert is_served.is_set()
    held.close()
    thread.join()


def test_a_place_that_nobody_else_wants_wakes_the_first_in_line_at_once() -> None:
    line = Line(1, lambda: 1000.0)  # a millisecond never passes
    assert line.join(1000.0, 0) is None
    waiter = line.join(1000.0, 0)
    assert waiter is not None
    line.give()
    assert line.wait(waiter, 5.0, lambda spent: None) == 0.0
    assert not line.free
    line.give()
    line.resize(1)
    assert line.free == [None, None]


# --- processes ---


def test_a_fork_with_connections_out_leaves_the_parents_transaction_alone(make_pool: Make, count: Count) -> None:
    pool = make_pool(maximum=2, timeout=1)
    held = pool.lend(ANY_THREAD)
    held.execute(INSERT)
    relic = pool.lend(ANY_THREAD)
    relic.close()
    child = os.fork()
    if not child:
        try:
            pool.abandon()
            assert not pool.stock.entries
            held.close()
            with pytest.raises(ConnectionReturned):
                relic.execute(COUNT)
            assert count(pool) == 3
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.commit()
    held.close()
    del held
    assert count(pool) == 4


def test_a_child_forked_while_others_waited_has_an_empty_line(make_pool: Make, count: Count) -> None:
    pool = make_pool(maximum=1, timeout=5)
    held = pool.lend(ANY_THREAD)
    thread = threading.Thread(target=count, args=(pool,))
    thread.start()
    while not pool.line.waiters:
        time.sleep(0.001)
    with pool.stock.lock, pool.line.lock:  # as if another thread were in the midst of something
        child = os.fork()
        if not child:
            pool.abandon()
            os._exit(0 if count(pool) == 3 and not pool.line.waiters else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.close()
    thread.join()


def test_a_process_killed_in_a_transaction_leaves_the_others_a_whole_database(
    make_pool: Make, path: Path, count: Count
) -> None:
    pool = make_pool(maximum=1)
    assert count(pool) == 3
    script = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1])
connection.execute(sys.argv[2])
print(1, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script, path, INSERT], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert count(pool) == 3
    connection = pool.lend(ANY_THREAD)
    connection.execute(INSERT)
    connection.commit()
    connection.close()


# --- the end ---


def test_closing_wakes_those_who_wait(make_pool: Make) -> None:
    pool = make_pool(maximum=1, timeout=20)
    held = pool.lend(ANY_THREAD)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(in_threads(1, lambda: pool.lend(ANY_THREAD))))
    thread.start()
    while not pool.line.waiters:
        time.sleep(0.001)
    pool.close()
    thread.join(timeout=5)
    assert isinstance(found[0], DBOptError)
    assert "closed" in str(found[0])
    held.close()
    assert not pool.stock.entries


def test_many_pools_made_and_closed_keep_no_descriptor(connector: SQLiteConnector, count: Count) -> None:
    before = len(list(DESCRIPTORS.iterdir()))
    for _ in range(20):  # as many reloads
        pool = Pool("reloaded", connector)
        count(pool)
        pool.close()
    assert len(list(DESCRIPTORS.iterdir())) == before


def test_a_loan_that_others_end_and_make_anew_meanwhile_is_not_ended_twice(make_pool: Make) -> None:
    """Between the look at a dropped loan and its end, another thread may have collected it and lent it again."""
    pool = make_pool(maximum=1)
    pool.lend(ANY_THREAD)
    anew: list[Any] = []

    def look(entry: Entry) -> bool:
        is_over = entry.is_dropped()
        if not anew:
            anew.append(None)
            anew[0] = pool.lend(ANY_THREAD)
        return is_over

    (entry,) = pool.lent.values()
    assert not pool._end(entry, look)
    assert anew[0].execute(COUNT).fetchone() == (3,)
    anew.pop().close()
    assert len(pool.line.free) == 1
