"""What the benchmarks run on: a table of words, tuned connections to it, and an app."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from flask import Flask

from flask_dbopt.settings import SQLITE_PRAGMAS

POINT = "SELECT text FROM word WHERE id = ?"


def make_database(folder: Path) -> Path:
    """100,000 rows, and the same tuning for every contender."""
    path = folder / "app.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
    connection.executemany("INSERT INTO word (text) VALUES (?)", ((f"word {n}",) for n in range(100_000)))
    connection.commit()
    connection.close()
    return path


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    for name, value in SQLITE_PRAGMAS.items():
        connection.execute(f"PRAGMA {name}={value}").fetchall()
    return connection


def make_app(name: str, folder: Path, **config: Any) -> Flask:
    app = Flask(name, instance_path=str(folder / name))
    app.config.update(config)
    return app
