"""A large generated table, and a workload to give advice on."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.advisor.advisor import Advisor
from flask_dbopt.engines.sqlite.planner import SQLitePlanner


@dataclass(frozen=True)
class Line:
    """One statement of a workload."""

    id: str
    query: str
    calls: int = 100
    seconds: float = 10.0


@dataclass
class Bench:
    """One database with an advisor, and a measure of work that no other load on the machine disturbs."""

    path: Path
    advisor: Advisor
    lines: list[Line]
    heard: list[tuple[str, dict[str, Any]]]
    now: list[float]

    def run(self, *queries: str) -> None:
        """Pretend that these statements were recorded, the first one as the costliest."""
        self.lines[:] = [Line(f"q{n}", query, seconds=50.0 - n) for n, query in enumerate(queries)]
        self.now[0] += 3600

    def steps(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """How many steps SQLite's virtual machine takes, to the hundred."""
        ticks = [0]

        def tick() -> int:
            ticks[0] += 1
            return 0

        with closing(sqlite3.connect(self.path)) as connection:
            connection.set_progress_handler(tick, 100)
            connection.execute(sql, parameters).fetchall()
        return ticks[0] * 100

    def write(self, script: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(script)


def _build(path: Path) -> None:
    chance = random.Random(7)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            CREATE TABLE keyword (id INTEGER PRIMARY KEY, word TEXT, lang TEXT, freq REAL, place INTEGER,
                                  hidden INTEGER, parent INTEGER);
            CREATE TABLE note (id INTEGER PRIMARY KEY, keyword_id INTEGER, body TEXT);
            CREATE TABLE language (code TEXT PRIMARY KEY, title TEXT) WITHOUT ROWID;
            CREATE VIEW shown AS SELECT * FROM keyword WHERE hidden = 0;
            """
        )
        languages = ["ar", "de", "en", "es", "fr", "it", "pt", "ru"]
        connection.executemany("INSERT INTO language VALUES (?, ?)", ((each, each.upper()) for each in languages))
        connection.executemany(
            "INSERT INTO keyword (word, lang, freq, place, hidden, parent) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (f"w{chance.randrange(60_000)}", lang, chance.random(), place, chance.random() < 0.5,
                 chance.randrange(120_000))
                for lang in languages
                for place in range(15_000)
            ),
        )  # fmt: skip
        connection.executemany(
            "INSERT INTO note (keyword_id, body) VALUES (?, 'x')",
            ((chance.randrange(120_000),) for _ in range(20_000)),
        )
        connection.commit()


@pytest.fixture(scope="session")
def keywords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keywords") / "keywords.db"
    _build(path)
    return path


@pytest.fixture
def bench_on(tmp_path: Path) -> Callable[..., Bench]:
    def make(source: Path | str, **thresholds: Any) -> Bench:
        path = tmp_path / "app.db"
        if isinstance(source, Path):
            shutil.copyfile(source, path)
        else:
            with closing(sqlite3.connect(path)) as connection:
                connection.executescript(source)
        lines: list[Line] = []
        heard: list[tuple[str, dict[str, Any]]] = []
        now = [1000.0]
        advisor = Advisor(
            SQLitePlanner(path, clock=lambda: now[0]),
            lambda: lines,
            emit=lambda signal, **details: heard.append((signal, details)),
            clock=lambda: now[0],
            **thresholds,
        )
        return Bench(path, advisor, lines, heard, now)

    return make


@pytest.fixture
def bench(keywords: Path, bench_on: Callable[..., Bench]) -> Bench:
    return bench_on(keywords)
