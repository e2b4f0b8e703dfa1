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

PLAIN = Arguments()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


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
    return Clock()


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
