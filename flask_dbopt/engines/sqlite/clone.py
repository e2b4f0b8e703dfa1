"""A row-less copy of a database's schema in memory: plans on it are the plans of the database itself."""

from __future__ import annotations

import re
import sqlite3
from contextlib import suppress

from flask_dbopt.engines.sqlite.schema import Schema, Statistics, is_virtual

_ORDER = ("table", "index", "view", "trigger")


def build(schema: Schema, statistics: Statistics) -> sqlite3.Connection:
    """Create what can be created. What can not (a module that is not there) costs only its own statements."""
    clone = sqlite3.connect(":memory:", isolation_level=None)
    clone.execute("PRAGMA page_size = 512")
    # Virtual tables after the others: they make their own shadow tables, and an ordinary one may be content.
    for kind, name, sql in sorted(schema.objects, key=lambda row: _ORDER.index(row[0]) + is_virtual(row[2]) / 2):
        shadow = kind == "table" and name.lower() in schema.others and not is_virtual(sql)
        if sql and not shadow and not name.lower().startswith("sqlite_"):
            with suppress(sqlite3.Error):
                _create(clone, sql)
    with suppress(sqlite3.Error):
        clone.execute("ANALYZE")  # without rows this only makes sqlite_stat1
    clone.executemany("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", statistics)
    return clone


def _create(clone: sqlite3.Connection, sql: str) -> None:
    """Run one CREATE; the app's own collations and functions get a stand-in, as no row ever reaches it."""
    for _ in range(32):
        try:
            clone.execute(sql)
        except sqlite3.OperationalError as error:
            missing = re.match(r"(?:no such|unknown) (function|collation sequence): ([^()\s]+)", str(error))
            if missing is None:
                raise
            if missing[1] == "function":
                clone.create_function(missing[2], -1, _nothing, deterministic=True)
            else:
                clone.create_collation(missing[2], _equal)
        else:
            return


def _nothing(*arguments: object) -> None:
    """Stands in for a function of the app's."""


def _equal(one: str, other: str) -> int:
    """Stands in for a collation of the app's."""
    return 0
