"""Databases to back up, rooms to back them up with, and Litestream as the independent reader."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.backup.backups import Backups
from flask_dbopt.engines.sqlite.snapshotter import SQLiteSnapshotter

Build = Callable[..., sqlite3.Connection]
Room = Callable[..., Backups]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """``build(rows, mode=…, page_size=…)``: an open connection to tmp_path/app.db with a table ``word``."""
    with contextlib.ExitStack() as opened:

        def make(
            rows: int = 500, *, mode: str = "wal", page_size: int = 4096, name: str = "app.db"
        ) -> sqlite3.Connection:
            connection = sqlite3.connect(tmp_path / name, isolation_level=None)
            opened.enter_context(contextlib.closing(connection))
            connection.execute(f"PRAGMA page_size={page_size}")
            connection.execute(f"PRAGMA journal_mode={mode}")
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT, weight REAL)")
            connection.execute("CREATE INDEX word_text ON word (text)")
            add_words(connection, rows)
            return connection

        yield make


def add_words(connection: sqlite3.Connection, rows: int) -> None:
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO word (text, weight) VALUES (?, ?)",
        ((f"word {number * 7919 % 104729}", number / 3) for number in range(rows)),
    )
    connection.execute("COMMIT")


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """``room(**options)``: the Backups of tmp_path/app.db, in tmp_path/backups/default."""

    def make(path: Path | None = None, **options: Any) -> Backups:
        snapshotter = SQLiteSnapshotter(path or tmp_path / "app.db", patience=5.0)
        return Backups("default", snapshotter, tmp_path / "backups", **options)

    return make


@pytest.fixture
def litestream(tmp_path: Path) -> Callable[..., bytes]:
    """``litestream(backups, *arguments)``: the bytes the real ``litestream restore`` makes of a folder."""
    count = 0

    def restore(backups: Backups, *arguments: str) -> bytes:
        nonlocal count
        count += 1
        target = tmp_path / f"litestream-{count}.db"
        program = Path(sysconfig.get_path("scripts"), "litestream")
        command = [program, "restore", *arguments, "-o", target, f"file://{backups.folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return target.read_bytes()

    return restore
