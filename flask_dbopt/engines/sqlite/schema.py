"""What is in an SQLite database: its tables, indexes, views, and what ANALYZE wrote down about them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from flask_dbopt.engines.protocol import Index, Table
from flask_dbopt.engines.sqlite.reading import Names, aliases

#: The rows of sqlite_stat1: table, index (None for the table itself), figures.
Statistics = tuple[tuple[str, str | None, str], ...]

#: What FTS3, FTS4, FTS5 and R-Tree keep beneath a virtual table, in tables named after it.
_SHADOWS = (
    "data", "idx", "content", "docsize", "config", "segments", "segdir", "stat", "node", "rowid", "parent",
)  # fmt: skip

_MODULE = re.compile(r"\bUSING\s+\W?(\w+)", re.I)


@dataclass(frozen=True, slots=True)
class Schema:
    """The main schema at one schema_version; keys are lower case."""

    objects: tuple[tuple[str, str, str | None], ...]
    """``(type, name, sql)`` as sqlite_schema has them, in order of creation."""
    tables: Mapping[str, Table]
    """Ordinary tables; their ``rows`` are not counted, so 0 here."""
    others: Mapping[str, str]
    """Virtual tables, their shadow tables and views, and the name as written."""
    rowids: Mapping[str, str]
    """Ordinary tables that have a rowid, and a name under which it can be read."""
    views: Mapping[str, tuple[str, Mapping[str, set[str]]]]
    """A view's text and the aliases in it."""

    def aliases(self, sql: str) -> dict[str, set[str]]:
        """What the names in ``sql``, and in the views it reads, may stand for."""
        found = aliases(sql, [*self.tables, *self.others])
        seen: set[str] = set()
        texts = [sql]
        while texts:
            text = texts.pop().lower()
            for view, (definition, named) in self.views.items():
                if view in text and view not in seen:
                    seen.add(view)
                    texts.append(definition)
                    for name, meant in named.items():
                        found.setdefault(name, set()).update(meant)
        return found

    def names(self, sql: str, statistics: Statistics, rows: Callable[[str], tuple[int, str] | None]) -> Names:
        """Everything that a plan of ``sql`` may name."""
        return Names(
            aliases=self.aliases(sql),
            indexes={i.name.lower(): key for key, table in self.tables.items() for i in table.indexes},
            spelled={**self.others, **{key: table.name for key, table in self.tables.items()}},
            shares={index.lower(): _shares(stat) for _, index, stat in statistics if index},
            rows=rows,
            modules={
                name.lower(): made[1].lower()
                for _, name, text in self.objects
                if text and is_virtual(text) and (made := _MODULE.search(text))
            },
        )


def read_schema(connection: sqlite3.Connection) -> Schema:
    objects = tuple(connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY rowid"))
    tables: dict[str, Table] = {}
    others: dict[str, str] = {}
    rowids: dict[str, str] = {}
    virtual = {name.lower() for _, name, sql in objects if is_virtual(sql)}
    beneath = {f"{name}_{shadow}" for name in virtual for shadow in _SHADOWS}
    for kind, name, _ in objects:
        key = name.lower()
        if kind == "view" or key in virtual or key in beneath:
            others[key] = name
        elif kind == "table" and not key.startswith("sqlite_"):
            columns = connection.execute(f"PRAGMA main.table_xinfo({quoted(name)})")
            # hidden: 1 for a virtual table's hidden column, 2 and 3 for generated ones.
            listed = tuple(row[1] for row in columns if row[6] != 1)
            tables[key] = Table(name, listed, 0, indexes_of(connection, name))
            rowid = _rowid(connection, name, listed)
            if rowid:
                rowids[key] = rowid
    known = [*tables, *others]
    views = {name.lower(): (sql, aliases(sql, known)) for kind, name, sql in objects if kind == "view" and sql}
    return Schema(objects, tables, others, rowids, views)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def is_virtual(sql: str | None) -> bool:
    return sql is not None and sql[:20].upper().startswith("CREATE VIRTUAL TABLE")


def _rowid(connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> str | None:
    taken = {column.lower() for column in columns}
    for name in ("rowid", "_rowid_", "oid"):
        if name not in taken:
            with suppress(sqlite3.OperationalError):  # WITHOUT ROWID
                connection.execute(f"SELECT {name} FROM {quoted(table)} LIMIT 0")  # noqa: S608 - quoted
                return name
    return None


def indexes_of(connection: sqlite3.Connection, table: str) -> tuple[Index, ...]:
    texts = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index'"))
    indexes = []
    for _, name, unique, _, partial in connection.execute(f"PRAGMA main.index_list({quoted(table)})").fetchall():
        columns = connection.execute(f"PRAGMA main.index_xinfo({quoted(name)})")
        # key: 0 for the columns that SQLite adds to find the row again.
        listed = tuple(column for _, _, column, _, _, key in columns if key)
        indexes.append(Index(name, table, listed, bool(unique), bool(partial), texts.get(name)))
    return tuple(indexes)


def index_names(connection: sqlite3.Connection) -> dict[str, str]:
    """Every index and its table."""
    return dict(connection.execute("SELECT name, tbl_name FROM sqlite_master WHERE type = 'index'"))


def read_statistics(connection: sqlite3.Connection) -> Statistics:
    """What ANALYZE found; empty when it never ran."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'").fetchone():
        return ()
    return tuple(connection.execute("SELECT tbl, idx, stat FROM sqlite_stat1 WHERE stat IS NOT NULL"))


def analyzed_rows(statistics: Statistics, table: str) -> int | None:
    """How many rows ``table`` (lower case) had when ANALYZE last ran."""
    for name, _, stat in statistics:
        if name.lower() == table and stat.split()[:1] and stat.split()[0].isdigit():
            return int(stat.split()[0])
    return None


def _shares(stat: str) -> tuple[int, ...]:
    # "320000 40000 1 unordered": rows, rows a value for each prefix, flags.
    return tuple(int(word) for word in stat.split()[1:] if word.isdigit())
