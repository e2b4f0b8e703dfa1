"""A process that commits a counter, and one that reads it through the cache: the tests run several of each.

``counter.py write DATABASE BOARD MODE`` raises the counter and, *after* each commit, the number on the board (eight
bytes in a mapped file), until its standard input is closed. ``counter.py read DATABASE BOARD SECONDS`` reads the board,
*then* asks for the counter, and tells where the answer was older than the board had said; for so long, and until it had
its fill of hits and misses.
"""

from __future__ import annotations

import json
import mmap
import random
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from flask_dbopt.cache.cache import Cache, Kept, Ticket
from flask_dbopt.engines.sqlite.watcher import SQLiteWatcher, pinned

# A busy machine needs longer for as many; then the test says what was missing.
HITS, FILLS, LONGEST = 50, 10, 30.0

# Expensive enough to be worth keeping.
SQL = "SELECT (SELECT n FROM counter), sum(a.id * b.id) FROM word a, word b WHERE a.id <= ?"
SUM = sum(range(1, 41)) * sum(range(1, 51))


def create(path: Path, n: int = 0, journal_mode: str = "wal") -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE counter (n INTEGER)")
        connection.execute("INSERT INTO counter VALUES (?)", (n,))
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO word (text) VALUES (?)", [("a" * 20,)] * 50)
        connection.execute("COMMIT")


class Board:
    """A number that all processes see at once: written and read as one aligned machine word."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)
        self._word = memoryview(self._map).cast("Q")

    def get(self) -> int:
        return self._word[0]

    def set(self, n: int) -> None:
        self._word[0] = n


class Writer:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=10)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    def commit(self, n: int) -> None:
        self.connection.execute("UPDATE counter SET n = ?", (n,))

    def rolled_back(self, n: int) -> None:
        self.connection.executescript("BEGIN IMMEDIATE; UPDATE counter SET n = 1000000000; ROLLBACK")
        self.commit(n)

    def schema(self, n: int) -> None:
        """The counter moves to another table."""
        self.connection.executescript(
            "BEGIN IMMEDIATE; ALTER TABLE counter RENAME TO gone; CREATE TABLE counter (n INTEGER);"
            f"INSERT INTO counter VALUES ({n}); DROP TABLE gone; COMMIT"
        )

    def vacuum(self, n: int) -> None:
        self.commit(n)
        self.connection.execute("VACUUM")

    def checkpoint(self, n: int) -> None:
        self.commit(n)
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def restore(self, n: int) -> None:
        """The whole database is loaded from another one, through the backup API."""
        source_path = self.path.with_name(f"source-{n}.db")
        create(source_path, n, journal_mode="delete")
        with closing(sqlite3.connect(source_path)) as source:
            for _ in range(200):
                try:
                    source.backup(self.connection)
                    break
                except sqlite3.OperationalError:
                    time.sleep(0.002)
            else:
                raise TimeoutError("the database was locked all the time")
        source_path.unlink()

    def replace(self, n: int) -> None:
        """Another file takes the place of the database."""
        self.connection.close()
        new = self.path.with_name("new.db")
        create(new, n, journal_mode="delete")
        new.replace(self.path)
        self.connection = self._connect()
        # No journal file: in SQLite, a connection that is still on the old file takes it for its own.
        self.connection.execute("PRAGMA journal_mode=memory")


MODES = {
    "commits": [Writer.commit],
    "everything": [
        Writer.commit,
        Writer.commit,
        Writer.rolled_back,
        Writer.schema,
        Writer.vacuum,
        Writer.checkpoint,
        Writer.restore,
    ],
    "replaced": [Writer.replace, Writer.commit],
}


def write(path: Path, board: Board, mode: str) -> dict[str, Any]:
    writer, n, chance = Writer(path), board.get(), random.Random(7)
    if mode == "replaced":
        n += 1
        writer.replace(n)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    while not stop.is_set():
        for _ in range(chance.randint(1, 6)):
            n += 1
            chance.choice(MODES[mode])(writer, n)
            board.set(n)
        time.sleep(chance.uniform(0, 0.02))  # long enough for the readers to hit, now and then
    writer.connection.close()
    return {"commits": n}


def read(path: Path, board: Board, seconds: float) -> dict[str, Any]:
    cache = Cache()
    shelf = cache.shelf("default", SQLiteWatcher(path))
    shelf.learn(SQL, 1.0)
    identity: tuple[int, int] | None = None
    connection = sqlite3.connect(":memory:")
    asked, hits, fills, faults = 0, 0, 0, []
    start = time.monotonic()
    while (spent := time.monotonic() - start) < seconds or (
        spent < seconds + LONGEST and (hits < HITS or fills < FILLS)
    ):
        least = board.get()
        status = path.stat()
        if identity != (status.st_dev, status.st_ino):  # as the pool does when it lends
            connection.close()
            with pinned(path) as identity:
                connection = sqlite3.connect(path, isolation_level=None, timeout=10)
                now = path.stat()
            if identity != (now.st_dev, now.st_ino):
                identity = None
                continue
        answer = shelf.look(SQL, (40,), None, identity)
        if isinstance(answer, Kept):
            rows: Any = answer.rows
            hits += 1
        else:
            if isinstance(answer, Ticket):
                answer.begin()
            cursor = connection.execute(SQL, (40,))
            rows = cursor.fetchall()
            if isinstance(answer, Ticket):
                fills += answer.keep(rows, cursor.description)
            else:
                shelf.learn(SQL, 1.0)
        asked += 1
        if rows[0][0] < least or rows[0][1] != SUM:
            faults.append((*rows[0], least, type(answer).__name__))
    connection.close()
    cache.close()
    return {"asked": asked, "hits": hits, "fills": fills, "faults": faults[:10]}


if __name__ == "__main__":
    role, database, shared, how = sys.argv[1:]
    where, on = Path(database), Board(Path(shared))
    print(json.dumps(write(where, on, how) if role == "write" else read(where, on, float(how))))
