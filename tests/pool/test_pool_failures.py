"""What may go wrong around a pool, done for real: files, disks, threads, processes and connections that fail."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.engines.sqlite.connector import Arguments, SQLiteConnector
from flask_dbopt.errors import ConnectionReturned, DatabaseUnavailable, DBOptError, PoolTimeout
from flask_dbopt.pool.entry import Entry
from flask_dbopt.pool.line import Line
from flask_dbopt.pool.pool import Pool
from flask_dbopt.pool.upkeep import Upkeep

Make = Callable[..., Pool]
ANY_THREAD = Arguments(check_same_thread=False)
INSERT = "INSERT INTO word (text) VALUES ('more')"
COUNT = "SELECT count(*) FROM word"
DESCRIPTORS = Path("/proc/self/fd")


def count(pool: Pool) -> int:
    connection = pool.lend(ANY_THREAD)
    found: int = connection.execute(COUNT).fetchone()[0]
    connection.close()
    return found


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


def replace(path: Path, rows: int) -> None:
    """Another file under the same name, as a deployment or a careless restore does it."""
    other = path.with_suffix(".new")
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
    connection.executemany("INSERT INTO word (text) VALUES (?)", [("other",)] * rows)
    connection.commit()
    connection.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    other.replace(path)


# --- files ---


def test_a_file_that_is_replaced_under_load_is_read_by_every_loan_after_it(make_pool: Make, path: Path) -> None:
    pool = make_pool(maximum=4)
    replaced = threading.Event()
    wrong: list[int] = []
    stop = time.monotonic() + 0.4

    def read() -> None:
        while time.monotonic() < stop:
            is_after = replaced.is_set()
            try:
                found = count(pool)
            except sqlite3.Error:
                assert not is_after  # opened in the very moment
                continue
            if is_after and found != 7:
                wrong.append(found)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    replace(path, 7)
    replaced.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert count(pool) == 7


def test_a_loan_that_was_out_when_its_file_was_replaced_is_not_lent_again(make_pool: Make, path: Path) -> None:
    pool = make_pool(maximum=2)
    old = pool.lend(ANY_THREAD)
    assert old.execute(COUNT).fetchone() == (3,)
    replace(path, 7)
    assert old.execute(COUNT).fetchone() == (3,)
    old.close()
    del old
    assert count(pool) == 7
    assert pool.stats().pool_size == 1


def test_a_file_that_is_deleted_and_made_again_leaves_no_old_descriptor(make_pool: Make, path: Path) -> None:
    pool = make_pool()
    count(pool)
    path.unlink()
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    replace(path, 2)
    assert count(pool) == 2
    kept = [str(link.readlink()) for link in DESCRIPTORS.iterdir() if link.is_symlink()]
    assert not [name for name in kept if name.startswith(str(path)) and name.endswith("(deleted)")]


def test_a_full_disk_fails_the_write_and_not_the_pool(make_pool: Make, path: Path) -> None:
    pool = make_pool(maximum=1)
    connection = pool.lend(ANY_THREAD)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")  # what SQLite says of a full disk, it says of this
    with pytest.raises(sqlite3.OperationalError, match="full"):
        connection.executemany("INSERT INTO word (text) VALUES (?)", [("x" * 5000,)] * 100)
    connection.close()
    del connection
    again = pool.lend(ANY_THREAD)
    assert not again.in_transaction
    assert again.execute(COUNT).fetchone() == (3,)
    again.executemany("INSERT INTO word (text) VALUES (?)", [("x" * 5000,)] * 10)  # its bound was undone
    again.commit()
    again.close()


def test_a_disk_that_is_really_full_leaves_committed_rows_and_a_working_pool(path: Path) -> None:
    """In a process whose files may not grow: the kernel refuses the write in the middle of a transaction."""
    script = """
import resource, signal, sqlite3, sys
from flask_dbopt.engines.sqlite.connector import Arguments, SQLiteConnector
from flask_dbopt.engines.sqlite.tuning import Tuning
from flask_dbopt.pool.pool import Pool
from flask_dbopt.settings import SQLITE_PRAGMAS
class Road:
    look = None
    def learn(self, *_): ...
    def record(self, *record): return list(record)
pool = Pool("full", SQLiteConnector(sys.argv[1], Tuning(SQLITE_PRAGMAS), Road()), maximum=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
connection = pool.lend(Arguments()); connection.execute("INSERT INTO word (text) VALUES ('kept')"); connection.commit()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    for _ in range(1000):
        connection.execute("INSERT INTO word (text) VALUES (?)", ("x" * 5000,))
    connection.commit()
except sqlite3.OperationalError as error:
    print(type(error).__name__)
connection.close(); del connection
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
connection = pool.lend(Arguments()); print(connection.execute("SELECT count(*) FROM word").fetchone()[0])
connection.execute("INSERT INTO word (text) VALUES ('after')"); connection.commit(); connection.close(); del connection
pool.close(); print(len(pool.stock.entries))
"""
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["OperationalError", "4", "0"], done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_running_out_of_descriptors_costs_no_place(path: Path, connector: SQLiteConnector) -> None:
    pool = Pool("few", connector, maximum=2, timeout=0.1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(link.name) for link in DESCRIPTORS.iterdir())
    hoard = [os.open(os.devnull, os.O_RDONLY) for _ in range(30)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hoard) + 1, hard))
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                pool.lend(ANY_THREAD)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in hoard:
            os.close(number)
    assert max(int(link.name) for link in DESCRIPTORS.iterdir()) <= used + 1
    assert count(pool) == 3
    assert len(pool.line.free) == 2
    pool.close()


def test_a_folder_that_goes_away_and_comes_back_is_connected_to_again(make_pool: Make, path: Path) -> None:
    pool = make_pool(timeout=0.1)
    assert count(pool) == 3
    away = path.parent.with_name("away")
    path.parent.rename(away)
    with pytest.raises(DatabaseUnavailable, match="folder"):
        count(pool)
    away.rename(path.parent)
    assert count(pool) == 3


# --- connections ---


def test_a_connection_killed_in_a_transaction_loses_the_transaction_and_nothing_else(make_pool: Make) -> None:
    pool = make_pool(maximum=1, timeout=0.5)
    connection = pool.lend(ANY_THREAD)
    connection.execute(INSERT)
    sqlite3.Connection.close(connection)
    connection.close()
    assert count(pool) == 3
    assert pool.stats().returns_bad == 1


def test_a_killed_connection_that_is_still_held_keeps_nobody_from_its_place(make_pool: Make) -> None:
    pool = make_pool(maximum=1, timeout=0.5)
    connection = pool.lend(ANY_THREAD)
    sqlite3.Connection.close(connection)
    assert count(pool) == 3
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute(COUNT)
    connection.close()
    assert len(pool.line.free) == 1


def test_a_statement_that_is_interrupted_leaves_its_connection_fit(make_pool: Make) -> None:
    pool = make_pool(maximum=1)
    connection = pool.lend(ANY_THREAD)
    timer = threading.Timer(0.05, connection.interrupt)
    timer.start()
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        ).fetchone()
    timer.join()
    connection.close()
    del connection, timer
    assert count(pool) == 3
    assert pool.stats().connections_num == 1


def test_every_idle_connection_dead_at_once_is_one_borrowers_affair(make_pool: Make, clock: Any) -> None:
    pool = make_pool(maximum=5, clock=clock)
    held = [pool.lend(ANY_THREAD) for _ in range(5)]
    while held:
        held.pop().close()
    for entry in pool.stock.idle():
        sqlite3.Connection.close(entry.connection)
    clock.now += 1
    assert count(pool) == 3
    assert pool.stats().connections_lost == 5
    assert pool.stats().pool_size == 1


def test_a_connector_that_fails_while_lending_costs_neither_place_nor_connection(
    make_pool: Make, connector: SQLiteConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(maximum=1, timeout=0.1)

    def refuse(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(connector, "lend", refuse)
        with pytest.raises(MemoryError):
            pool.lend(ANY_THREAD)
    assert count(pool) == 3
    assert pool.stats().requests_errors == 1
    assert len(pool.stock.entries) == 1


# --- threads ---


def test_a_thread_that_dies_while_holding_gives_its_place_back(make_pool: Make) -> None:
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


def test_a_storm_of_timeouts_leaves_every_place_free(make_pool: Make) -> None:
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


def test_an_interrupt_while_waiting_leaves_the_line(make_pool: Make) -> None:
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


def test_a_fork_with_connections_out_leaves_the_parents_transaction_alone(make_pool: Make) -> None:
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


def test_a_child_forked_while_others_waited_has_an_empty_line(make_pool: Make) -> None:
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


def test_a_process_killed_in_a_transaction_leaves_the_others_a_whole_database(make_pool: Make, path: Path) -> None:
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


def test_many_pools_made_and_closed_keep_no_descriptor(connector: SQLiteConnector) -> None:
    before = len(list(DESCRIPTORS.iterdir()))
    for _ in range(20):  # as many reloads
        pool = Pool("reloaded", connector)
        count(pool)
        pool.close()
    assert len(list(DESCRIPTORS.iterdir())) == before


# --- leaks and reconnecting ---


@pytest.fixture
def pool(make_pool: Make, clock: Any) -> Pool:
    return make_pool(minimum=1, maximum=3, clock=clock, max_lifetime=1e6)


@pytest.fixture
def upkeep(pool: Pool) -> Upkeep:
    return Upkeep(pool, health_interval=300, idle_timeout=600, leak_after=60, reconnect_timeout=30, chance=lambda: 0.5)


def test_a_second_leak_of_the_same_borrower_says_where_it_borrowed(
    pool: Pool, upkeep: Upkeep, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def leaky_view() -> Any:
        return pool.lend(ANY_THREAD, None, "GET export")

    first = leaky_view()
    innocent = pool.lend(ANY_THREAD, None, "GET list")
    clock.now += 61
    innocent.close()
    upkeep.sweep(0)
    assert "GET export has held a connection for 61 s (its next loans will be traced)" in caplog.text
    first.close()
    assert "GET export gave its connection back after 61 s" in caplog.text
    second = leaky_view()
    innocent = pool.lend(ANY_THREAD, None, "GET list")
    assert [bool(holder.stack) for holder in pool.holders()] == [True, False]
    clock.now += 61
    innocent.close()
    caplog.clear()
    upkeep.sweep(0)
    assert "in leaky_view" in caplog.text
    second.close()


def test_connecting_is_tried_again_ever_more_slowly_and_given_up_aloud_once(
    pool: Pool, upkeep: Upkeep, clock: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Pool] = []
    pool.reconnect_failed = told.append
    count(pool)
    pool.drain()
    path.unlink()
    path.mkdir()
    tried: list[float] = []
    for _ in range(120):
        before = pool.stats().connections_errors
        upkeep.sweep(0)
        if pool.stats().connections_errors > before:
            tried.append(clock.now - 1000)
        clock.now += 1
    assert tried == [0, 1, 3, 7, 15, 31, 63]
    assert told == [pool]
    assert caplog.text.count("no connection could be opened for 30 s") == 1
    path.rmdir()
    replace(path, 1)
    clock.now += 60
    upkeep.sweep(0)
    assert "connections can be opened again" in caplog.text
    assert pool.stats().pool_available == 1


def test_checking_by_hand_closes_what_no_longer_answers(pool: Pool) -> None:
    held = [pool.lend(ANY_THREAD) for _ in range(3)]
    while held:
        held.pop().close()
    dead: Entry = pool.stock.idle()[1]
    sqlite3.Connection.close(dead.connection)
    assert pool.check() == 1
    assert pool.stats().pool_available == 2
    assert pool.check() == 0


def test_a_smaller_pool_takes_effect_as_loans_end(pool: Pool) -> None:
    held = [pool.lend(ANY_THREAD) for _ in range(3)]
    pool.resize(0, 1)
    held.pop().close()
    held.pop().close()
    with pytest.raises(PoolTimeout):
        pool.lend(ANY_THREAD, timeout=0.01)
    pool.resize(0, 2)
    held.append(pool.lend(ANY_THREAD))
    while held:
        held.pop().close()
    assert len(pool.line.free) == 2
