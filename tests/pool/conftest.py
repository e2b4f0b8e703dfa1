"""A real pool on a real file, and a clock in hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.engines.sqlite.connector import Arguments, SQLiteConnector
from flask_dbopt.engines.sqlite.road import Road
from flask_dbopt.engines.sqlite.tuning import Tuning
from flask_dbopt.pool.pool import Pool
from flask_dbopt.settings import SQLITE_PRAGMAS
from tests.clock import Clock

PLAIN = Arguments()


class Watched(Road):
    """A road with nobody on it, but a list of what passed."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[list[Any]] = []
        self.record = self._note

    def _note(self, *record: Any) -> list[Any]:
        self.passed.append(list(record))
        return self.passed[-1]


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def road() -> Watched:
    return Watched()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in WAL mode with one table of three rows."""
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        "PRAGMA journal_mode=WAL; CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT);"
        "INSERT INTO word (text) VALUES ('one'), ('two'), ('three');"
    )
    connection.close()
    return path


@pytest.fixture
def connector(path: Path, road: Watched) -> SQLiteConnector:
    return SQLiteConnector(path, Tuning(SQLITE_PRAGMAS), road)


@pytest.fixture
def make_pool(connector: SQLiteConnector) -> Iterator[Callable[..., Pool]]:
    pools: list[Pool] = []

    def make(**options: Any) -> Pool:
        pools.append(Pool("test", connector, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
        pool.collect_dropped()
        for entry in pool.lent.values():
            pool.connector.close(entry.connection)


@pytest.fixture
def count() -> Callable[[Pool], int]:
    """Counts the words by a loan of its own, from any thread."""

    def count(pool: Pool) -> int:
        connection = pool.lend(Arguments(check_same_thread=False))
        found: int = connection.execute("SELECT count(*) FROM word").fetchone()[0]
        connection.close()
        return found

    return count


@pytest.fixture
def replace() -> Callable[[Path, int], None]:
    """Puts another file under the same name, as a deployment or a careless restore does it."""

    def replace(path: Path, rows: int) -> None:
        other = path.with_suffix(".new")
        connection = sqlite3.connect(other)
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO word (text) VALUES (?)", [("other",)] * rows)
        connection.commit()
        connection.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        other.replace(path)

    return replace
