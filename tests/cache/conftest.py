"""A real database with a shelf in front of it, and a reader that asks the shelf first, as a cursor does."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.cache.cache import Cache, Kept, Shelf, Ticket
from flask_dbopt.engines.sqlite.watcher import SQLiteWatcher


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cost = 1.0
        """What every query seems to take, in seconds."""
        self.spent = 0.0

    def __call__(self) -> float:
        return self.now

    def timer(self) -> float:
        return self.spent

    def run(self) -> None:
        """A query has run."""
        self.spent += self.cost
        self.now += self.cost / 1e6  # the wall clock hardly moves


class Reader:
    """One connection that looks before it reads. ``how`` tells where the last rows came from."""

    def __init__(self, path: Path, shelf: Shelf, clock: Clock, row_factory: Any = None) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
        self.connection.row_factory = row_factory
        status = path.stat()
        self.identity = (status.st_dev, status.st_ino)
        self.shelf = shelf
        self.clock = clock
        self.how = ""
        self.description: Any = None

    def look(self, sql: str, parameters: Any = ()) -> Kept | Ticket | None:
        factories = (self.connection.row_factory, self.connection.text_factory)
        return self.shelf.look(sql, parameters, factories, self.identity)

    def ask(self, sql: str, parameters: Any = (), between: Callable[[], object] = lambda: None) -> list[Any]:
        """The rows of a query; ``between`` happens after it ran, before its result is offered."""
        self.how = "raised"
        answer = self.look(sql, parameters)
        if isinstance(answer, Kept):
            self.how, self.description = "hit", answer.description
            return list(answer.rows)
        if isinstance(answer, Ticket):
            answer.begin()
        cursor = self.connection.execute(sql, parameters)
        rows = cursor.fetchall()
        self.clock.run()
        self.description = cursor.description
        between()
        self.how = "ran"
        if isinstance(answer, Ticket):
            self.how = "kept" if answer.keep(rows, cursor.description) else "refused"
        else:
            self.shelf.learn(sql, self.clock.cost)
        return rows

    def ways(self, sql: str, parameters: Any = (), times: int = 4) -> list[str]:
        """Where the rows came from when this is asked so many times."""
        ways = []
        for _ in range(times):
            self.ask(sql, parameters)
            ways.append(self.how)
        return ways

    def warm(self, sql: str, parameters: Any = ()) -> list[Any]:
        """Ask until the answer is kept; as queries here are slow, it must be so at the third time."""
        for _ in range(3):
            rows = self.ask(sql, parameters)
            if self.how in ("kept", "hit"):
                return rows
        raise AssertionError(f"never kept: {sql}")

    def never_kept(self, sql: str, parameters: Any = ()) -> bool:
        return not {"kept", "hit"} & set(self.ways(sql, parameters, times=6))


class Bench:
    """Cache, watcher and readers of one database file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.signals: list[tuple[str, dict[str, Any]]] = []
        self._open: list[Any] = []
        self.restart()

    def restart(self, **settings: Any) -> None:
        """A new cache with these settings, and a new watcher."""
        self.cache = Cache(emit=self._emit, clock=self.clock, timer=self.clock.timer, **settings)
        self.watcher = SQLiteWatcher(self.path)
        self.shelf = self.cache.shelf("default", self.watcher)
        self.writer = sqlite3.connect(self.path, isolation_level=None, timeout=5)
        self._open += [self.cache, self.watcher, self.writer]

    def _emit(self, name: str, **details: Any) -> None:
        self.signals.append((name, details))

    def names(self) -> list[str]:
        return [name for name, _ in self.signals]

    def reader(self, row_factory: Any = None) -> Reader:
        reader = Reader(self.path, self.shelf, self.clock, row_factory)
        self._open.append(reader.connection)
        return reader

    def close(self) -> None:
        for opened in self._open:
            opened.close()


@pytest.fixture(params=["wal"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute(f"PRAGMA journal_mode={request.param}")
    connection.executescript(
        """
        CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT, zipf REAL, data BLOB);
        CREATE TABLE language (id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE audit (note TEXT);
        CREATE VIEW shown AS SELECT text FROM word;
        CREATE TRIGGER noted AFTER UPDATE ON word BEGIN INSERT INTO audit VALUES (new.text); END;
        INSERT INTO word (text, zipf, data) VALUES ('a', 1.5, x'00'), ('b', 2.5, x'01'), ('c', NULL, NULL);
        INSERT INTO language (name) VALUES ('en');
        """
    )
    connection.close()
    bench = Bench(path)
    yield bench
    bench.close()
