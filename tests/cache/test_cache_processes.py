"""The promise, between real processes: nothing served is older than what a writer had acknowledged before."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

COUNTER = Path(__file__).with_name("counter.py")


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(COUNTER), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def run(tmp_path: Path, mode: str, journal_mode: str, seconds: float, readers: int = 3) -> list[dict[str, Any]]:
    """One writer and several readers, for some seconds at least; what the readers saw."""
    database, board = tmp_path / "app.db", tmp_path / "board"
    board.write_bytes(bytes(8))
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.executescript(
            """
            CREATE TABLE counter (n INTEGER);
            INSERT INTO counter VALUES (0);
            CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT);
            """
        )
        connection.executemany("INSERT INTO word (text) VALUES (?)", [("a" * 20,)] * 50)
    writer = start("write", database, board, mode)
    processes = [*(start("read", database, board, seconds) for _ in range(readers)), writer]
    outputs = [process.communicate(timeout=seconds + 60)[0] for process in processes]  # ends the writer's input, too
    assert [process.returncode for process in processes] == [0] * len(processes)
    *seen, written = [json.loads(output) for output in outputs]
    assert written["commits"] > 10
    return seen


CASES = [
    ("commits", "wal"),
    ("commits", "delete"),
    ("everything", "wal"),
    ("everything", "delete"),
    ("replaced", "delete"),
]


@pytest.mark.parametrize(("mode", "journal_mode"), CASES)
def test_no_reader_gets_less_than_what_was_acknowledged_before_it_asked(
    tmp_path: Path, mode: str, journal_mode: str
) -> None:
    for seen in run(tmp_path, mode, journal_mode, seconds=0.3):
        assert seen["faults"] == []
        assert seen["hits"] >= 50, seen
        assert seen["fills"] >= 10, seen


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "journal_mode"), CASES)
def test_it_stays_so_for_longer(tmp_path: Path, mode: str, journal_mode: str) -> None:
    for seen in run(tmp_path, mode, journal_mode, seconds=10, readers=4):
        assert seen["faults"] == []
        assert seen["hits"] > 200, seen
