"""Databases to plan on: made to order, and one large enough that reading it whole matters."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from flask_dbopt.engines.sqlite.planner import SQLitePlanner

Made = Callable[[str], SQLitePlanner]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(script: str) -> SQLitePlanner:
        path = tmp_path / "app.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.create_function("app_rank", 1, lambda value: value, deterministic=True)
            connection.create_collation("app_order", lambda one, other: (one > other) - (one < other))
            connection.executescript(script)
        return SQLitePlanner(path)

    return make


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> SQLitePlanner:
    """120,000 words, 15,000 in each of 8 languages, one language after the other."""
    path = tmp_path_factory.mktemp("words") / "words.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, lang TEXT, text TEXT, freq REAL)")
        connection.executemany(
            "INSERT INTO word (lang, text, freq) VALUES (?, ?, ?)",
            ((f"l{number // 15_000}", f"w{number * 7919 % 60_000}", number % 997) for number in range(120_000)),
        )
        connection.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, word_id INTEGER, body TEXT)")
        connection.executemany("INSERT INTO note (word_id, body) VALUES (?, 'x')", ((n,) for n in range(600)))
        connection.commit()
    return SQLitePlanner(path)
