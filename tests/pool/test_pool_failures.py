"""What may go wrong around a pool, done for real: files, disks, threads, processes and connections that fail."""

from __future__ import annotations

import os
import resource
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
from flask_dbopt.errors import DatabaseUnavailable
from flask_dbopt.pool.pool import Pool

Make = Callable[..., Pool]
Count = Callable[[Pool], int]
Replace = Callable[[Path, int], None]
ANY_THREAD = Arguments(check_same_thread=False)
INSERT = "INSERT INTO word (text) VALUES ('more')"
COUNT = "SELECT count(*) FROM word"
DESCRIPTORS = Path("/proc/self/fd")


# --- files ---


def test_a_file_that_is_replaced_under_load_is_read_by_every_loan_after_it(
    make_pool: Make, path: Path, count: Count, replace: Replace
) -> None:
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


def test_a_loan_that_was_out_when_its_file_was_replaced_is_not_lent_again(
    make_pool: Make, path: Path, count: Count, replace: Replace
) -> None:
    pool = make_pool(maximum=2)
    old = pool.lend(ANY_THREAD)
    assert old.execute(COUNT).fetchone() == (3,)
    replace(path, 7)
    assert old.execute(COUNT).fetchone() == (3,)
    old.close()
    del old
    assert count(pool) == 7
    assert pool.stats().pool_size == 1


def test_a_file_that_is_deleted_and_made_again_leaves_no_old_descriptor(
    make_pool: Make, path: Path, count: Count, replace: Replace
) -> None:
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
from flask_dbopt.engines.sqlite.road import Road
from flask_dbopt.engines.sqlite.tuning import Tuning
from flask_dbopt.pool.pool import Pool
from flask_dbopt.settings import SQLITE_PRAGMAS
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


def test_running_out_of_descriptors_costs_no_place(path: Path, connector: SQLiteConnector, count: Count) -> None:
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


def test_a_folder_that_goes_away_and_comes_back_is_connected_to_again(
    make_pool: Make, path: Path, count: Count
) -> None:
    pool = make_pool(timeout=0.1)
    assert count(pool) == 3
    away = path.parent.with_name("away")
    path.parent.rename(away)
    with pytest.raises(DatabaseUnavailable, match="folder"):
        count(pool)
    away.rename(path.parent)
    assert count(pool) == 3


# --- connections ---


def test_a_connection_killed_in_a_transaction_loses_the_transaction_and_nothing_else(
    make_pool: Make, count: Count
) -> None:
    pool = make_pool(maximum=1, timeout=0.5)
    connection = pool.lend(ANY_THREAD)
    connection.execute(INSERT)
    sqlite3.Connection.close(connection)
    connection.close()
    assert count(pool) == 3
    assert pool.stats().returns_bad == 1


def test_a_killed_connection_that_is_still_held_keeps_nobody_from_its_place(make_pool: Make, count: Count) -> None:
    pool = make_pool(maximum=1, timeout=0.5)
    connection = pool.lend(ANY_THREAD)
    sqlite3.Connection.close(connection)
    assert count(pool) == 3
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute(COUNT)
    connection.close()
    assert len(pool.line.free) == 1


def test_a_statement_that_is_interrupted_leaves_its_connection_fit(make_pool: Make, count: Count) -> None:
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


def test_every_idle_connection_dead_at_once_is_one_borrowers_affair(make_pool: Make, clock: Any, count: Count) -> None:
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
    make_pool: Make, connector: SQLiteConnector, monkeypatch: pytest.MonkeyPatch, count: Count
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
