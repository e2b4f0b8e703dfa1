"""Real apps on a real file, and every way in which one of them may come to hold a connection."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer

LANGUAGES = ("de", "en", "es", "fr", "it")


@pytest.fixture(autouse=True)
def dates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's own converter of dates is on its way out since Python 3.12."""
    monkeypatch.setitem(sqlite3.converters, "DATE", lambda text: date.fromisoformat(text.decode()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 3,000 keywords in five languages, in the journal mode that SQLite begins with."""
    path = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE keyword (id INTEGER PRIMARY KEY, word TEXT, language TEXT, day DATE, share REAL);"
            "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT);"
        )
        connection.executemany(
            "INSERT INTO keyword (word, language, day, share) VALUES (?, ?, ?, ?)",
            [(f"word{n:04}", LANGUAGES[n % 5], f"2026-01-{1 + n % 28:02}", n / 3000) for n in range(3000)],
        )
        connection.commit()
    return path


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Callable[..., Flask]]:
    """Flask apps with an instance folder of their own; their optimizers are closed in the end."""
    made: list[Flask] = []

    def make(*, testing: bool = True, **config: Any) -> Flask:
        app = Flask(f"app{len(made)}", instance_path=str(tmp_path / f"instance{len(made)}"))
        app.testing = testing
        app.config.from_mapping(config)
        made.append(app)
        return app

    yield make
    for app in made:
        optimizer = app.extensions.get("dbopt")
        if optimizer is not None:
            optimizer.close()


@pytest.fixture
def site(make_app: Callable[..., Flask], path: Path) -> Flask:
    """An app on the file. (Were it called ``app``, pytest-flask would push a request context for each test.)"""
    return make_app(DBOPT_DATABASE=str(path))


@pytest.fixture
def dbopt(site: Flask) -> DBOptimizer:
    return DBOptimizer(site)


@pytest.fixture
def descriptors() -> Callable[[Path], list[str]]:
    """What this process has open of a file and its companions, or in a folder; deleted ones too."""

    def look(path: Path) -> list[str]:
        links = []
        for number in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(number.readlink()))
        return [link for link in links if link.startswith(str(path))]

    return look
