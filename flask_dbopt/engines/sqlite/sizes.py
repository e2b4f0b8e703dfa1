"""How many rows the tables of a SQLite file have, exactly where that is quick: to see whether they grow."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from flask_dbopt.engines.sqlite.schema import quoted

#: Instructions of SQLite's machine between two looks at the time: some hundred rows, each perhaps a read of the disk.
_STEPS = 1_000


def count_tables(path: Path, *, seconds: float = 0.5, most: int = 500) -> tuple[dict[str, int], dict[str, int]]:
    """Rows by table; and for tables too large to be counted, how far apart their first and last rowids are.

    It takes about ``seconds``, a fifth of them for one table at most. Virtual tables, and large ones without
    rowids, are left out. The file is neither made nor changed; where it cannot be read now, it tells nothing.
    """
    rows: dict[str, int] = {}
    spans: dict[str, int] = {}
    with suppress(sqlite3.Error):
        _count(path, seconds, most, rows, spans)
    return rows, spans


def _count(path: Path, seconds: float, most: int, rows: dict[str, int], spans: dict[str, int]) -> None:
    end = time.monotonic() + seconds
    uri = f"{path.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None)) as connection:
        connection.execute("PRAGMA query_only = 1")
        for table in _tables(connection)[:most]:
            deadline = min(end, time.monotonic() + seconds / 5)
            connection.set_progress_handler(partial(_is_over, deadline), _STEPS)
            try:
                # Not count(*): SQLite counts those in one step, which nothing interrupts.
                rows[table] = connection.execute(f"SELECT count(1) FROM {quoted(table)}").fetchone()[0]  # noqa: S608
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                    raise  # such as a lock, for which not each table is to wait
                connection.set_progress_handler(None, 0)  # it is large
                span = _span(connection, table)
                if span is not None:
                    spans[table] = span


def _is_over(deadline: float) -> bool:
    return time.monotonic() > deadline


def _tables(connection: sqlite3.Connection) -> list[str]:
    """Ordinary tables by name; those that belong to SQLite or to a virtual table are none."""
    listed = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY 1"
    )
    return [name for (name,) in listed if not name.startswith("sqlite_")]


def _span(connection: sqlite3.Connection, table: str) -> int | None:
    """Two looks at the tree's ends, whatever its size; None for a table without rowids."""
    name = quoted(table)
    try:
        low, high = connection.execute(
            f"SELECT (SELECT min(rowid) FROM {name}), (SELECT max(rowid) FROM {name})"  # noqa: S608
        ).fetchone()
    except sqlite3.OperationalError:
        return None
    return 0 if low is None else int(high) - int(low) + 1
