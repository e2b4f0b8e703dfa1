"""SQLite's Planner: explains statements, counts rows quickly, tries indexes on a row-less clone.

It opens a connection of its own for each question and closes it: nothing to abandon after a fork, nothing
open when the file is deleted.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flask_dbopt.engines.counts import CountedTables, RowCount
from flask_dbopt.engines.protocol import Plan, Table
from flask_dbopt.engines.sqlite import clone as clones
from flask_dbopt.engines.sqlite.reading import how_far, read_plan
from flask_dbopt.engines.sqlite.sampling import count_rows, rows_per_value
from flask_dbopt.engines.sqlite.schema import (
    Schema,
    Statistics,
    analyzed_rows,
    index_names,
    indexes_of,
    quoted,
    read_schema,
    read_statistics,
)
from flask_dbopt.errors import AdviceError, DatabaseUnavailable
from flask_dbopt.sql.predicates import first_word

#: Row counts are good for this long, in seconds.
COUNTS_KEPT = 60.0

_EXPLAINABLE = frozenset({"select", "with", "values", "insert", "update", "delete", "replace"})

# Beside SQLite's own: a lone surrogate in the text, an integer beyond 64 bits, a file that is gone.
_REFUSALS = (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, OSError)

_UNWRITABLE = (
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_CANTOPEN",
    "SQLITE_NOTADB",
    "SQLITE_READONLY",
    "SQLITE_FULL",
)


class SQLitePlanner:
    """Looks at one database file. Thread-safe: each call works on a connection of its own."""

    writers_wait = True

    def __init__(
        self,
        path: str | Path,
        *,
        timeout: float = 1.0,
        build_timeout: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``timeout`` and ``build_timeout``: seconds to wait for a lock, when looking and when building."""
        self.path = Path(path)
        self._timeout, self._build_timeout = timeout, build_timeout
        self._clock = clock
        self._schema: tuple[object, Schema] | None = None
        self._counts: dict[str, tuple[float, RowCount]] = {}
        self._image: tuple[Schema, Statistics, bytes] | None = None

    def explain(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Plan:
        """How SQLite would run ``sql`` now. Placeholders without a value are explained as unknown values."""
        refusal = _refusal(sql)
        if refusal:
            return Plan(sql, problem=refusal)
        try:
            with self._reading() as connection:
                schema, statistics = self._read(connection), read_statistics(connection)
                names = schema.names(sql, statistics, lambda table: self._in_words(connection, schema, table))
                lines = _explained(connection, sql, parameters)
                return Plan(sql, read_plan(lines, names, how_far(sql, lines)))
        except _REFUSALS as error:
            return Plan(sql, problem=_problem(error))

    def tables(self) -> Mapping[str, Table]:
        """Ordinary tables by lower-case name, rows counted or estimated when one is first looked at.

        Virtual tables and those beneath them are left out: no index can be made on them.
        """
        try:
            with self._reading() as connection:
                schema = self._read(connection)
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error
        return CountedTables(schema.tables, lambda names: self._rows(schema, names))

    def hindrance(self) -> str:
        """A clone in memory can always be made."""
        return ""

    def trial(self, sql: str, indexes: Sequence[str]) -> Plan:
        """The plan on a row-less clone in memory: schema and statistics of the database, and these indexes.

        A new index gets the statistics that ANALYZE would find for it, estimated from a sample of its table.
        """
        refusal = _refusal(sql)
        if refusal:
            return Plan(sql, problem=refusal)
        try:
            with self._reading() as connection:
                schema, statistics = self._read(connection), read_statistics(connection)
                with closing(self._cloned(schema, statistics)) as clone:
                    for index_sql in indexes:
                        self._add(clone, index_sql, connection, schema)
                    clone.execute("ANALYZE sqlite_master")
                    names = schema.names(
                        sql, read_statistics(clone), lambda table: self._in_words(connection, schema, table)
                    )
                    added = {index.lower(): table.lower() for index, table in index_names(clone).items()}
                    names = replace(names, indexes={**names.indexes, **added})
                    lines = _explained(clone, sql, ())
                    return Plan(sql, read_plan(lines, names, how_far(sql, lines)))
        except _REFUSALS as error:
            return Plan(sql, problem=_problem(error))

    def create(self, index_sql: str) -> None:
        """Build the index and its statistics in one transaction; writers wait meanwhile.

        Raises AdviceError when SQLite refuses it, DatabaseUnavailable when nothing can be written now.
        """
        if first_word(index_sql) != "create" or "index" not in index_sql.lower().split()[:3]:
            raise AdviceError("only CREATE INDEX is ever run here", hint="pass the sql of a recommendation")
        try:
            with self._open(query_only=False) as connection:
                connection.execute("BEGIN IMMEDIATE")
                before = index_names(connection)
                connection.execute(index_sql)
                for name in index_names(connection).keys() - before.keys():
                    connection.execute(f"ANALYZE main.{quoted(name)}")
                connection.execute("COMMIT")
        except (sqlite3.Error, sqlite3.Warning) as error:
            code = getattr(error, "sqlite_errorname", "")
            if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_NOTADB", "SQLITE_READONLY")):
                raise self._unavailable(error) from error
            raise AdviceError(f"the index was not built: {error}", hint="the database is as it was before") from error

    # --- connections --------------------------------------------------------------------------------------

    @contextmanager
    def _open(self, *, query_only: bool) -> Iterator[sqlite3.Connection]:
        # mode=rw never creates a file. mode=ro would leave -wal and -shm behind when it is the last to close.
        connection = sqlite3.connect(
            self.path.absolute().as_uri() + "?mode=rw",
            uri=True,
            timeout=self._timeout if query_only else self._build_timeout,
            isolation_level=None,
        )
        with closing(connection):
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            if query_only:
                connection.execute("PRAGMA query_only = 1")
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._open(query_only=True) as connection:
            connection.execute("BEGIN")
            yield connection

    def _unavailable(self, error: Exception) -> DatabaseUnavailable:
        hint = "another connection holds it; try again" if "locked" in str(error) else "check the path and its rights"
        return DatabaseUnavailable(f"{self.path} can not be used for index advice now: {error}", hint=hint)

    # --- what the database says ---------------------------------------------------------------------------

    def _read(self, connection: sqlite3.Connection) -> Schema:
        version = connection.execute("PRAGMA schema_version").fetchone()[0]
        status = self.path.stat()
        key = (version, status.st_dev, status.st_ino)
        kept = self._schema
        if kept is None or kept[0] != key:
            kept = self._schema = (key, read_schema(connection))
            self._counts = {}
        return kept[1]

    def _count(self, connection: sqlite3.Connection, schema: Schema, table: str) -> RowCount:
        kept = self._counts.get(table)
        if kept is None or not 0 <= self._clock() - kept[0] < COUNTS_KEPT:
            analyzed = analyzed_rows(read_statistics(connection), table)
            count = count_rows(connection, schema.tables[table].name, schema.rowids.get(table), analyzed)
            kept = self._counts[table] = (self._clock(), count)
        return kept[1]

    def _rows(self, schema: Schema, tables: Iterable[str]) -> dict[str, int]:
        """All counted on one connection."""
        try:
            with self._reading() as connection:
                return {table: self._count(connection, schema, table).rows for table in tables}
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error

    def _in_words(self, connection: sqlite3.Connection, schema: Schema, table: str) -> tuple[int, str] | None:
        if table not in schema.tables:
            return None
        count = self._count(connection, schema, table)
        return count.rows, count.words

    # --- the clone ----------------------------------------------------------------------------------------

    def _cloned(self, schema: Schema, statistics: Statistics) -> sqlite3.Connection:
        """A clone to add to and to close; copied from a kept image where the SQLite library can."""
        kept = self._image
        if kept is None or kept[0] is not schema or kept[1] != statistics:
            built = clones.build(schema, statistics)
            if not hasattr(built, "serialize"):
                return built
            with closing(built):
                kept = self._image = (schema, statistics, built.serialize())
        clone = sqlite3.connect(":memory:", isolation_level=None)
        clone.deserialize(kept[2])
        return clone

    def _add(self, clone: sqlite3.Connection, index_sql: str, connection: sqlite3.Connection, schema: Schema) -> None:
        before = index_names(clone)
        clone.execute(index_sql)
        for name, written in index_names(clone).items():
            table = schema.tables.get(written.lower())
            if name in before or table is None:
                continue
            index = next(index for index in indexes_of(clone, table.name) if index.name == name)
            columns = [column for column in index.columns if column is not None]
            rows = self._count(connection, schema, table.name.lower()).rows
            if rows and len(columns) == len(index.columns) and not index.partial:
                rowid = schema.rowids.get(table.name.lower())
                shares = rows_per_value(connection, table.name, rowid, columns, rows)
                clone.execute(
                    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)",
                    (table.name, name, " ".join(map(str, (rows, *shares)))),
                )


class _Unknown(dict[str, None]):
    """A value for every named placeholder: none is known."""

    def __missing__(self, name: str) -> None:
        return None


def _explained(
    connection: sqlite3.Connection, sql: str, parameters: Sequence[Any] | Mapping[str, Any]
) -> list[tuple[int, int, str]]:
    statement = "EXPLAIN QUERY PLAN " + sql
    try:
        lines = connection.execute(statement, parameters or _Unknown())
    except sqlite3.ProgrammingError:
        if parameters:
            raise
        try:
            lines = connection.execute(statement)
        except sqlite3.ProgrammingError as error:
            # "The current statement uses 2, and there are 0 supplied": the only way to learn their number.
            uses = re.search(r"uses (\d+)", str(error))
            if uses is None:
                raise
            lines = connection.execute(statement, [None] * int(uses[1]))
    return [(number, parent, detail) for number, parent, _, detail in lines]


def _refusal(sql: str) -> str:
    if first_word(sql) in _EXPLAINABLE:
        return ""
    return "not explainable: only SELECT, INSERT, UPDATE and DELETE have a plan"


def _problem(error: Exception) -> str:
    missing = re.match(r"(?:no such|unknown) (function|collation sequence|module): (\S+)", str(error))
    if missing is None:
        return f"not explainable: {error}"
    kind = missing[1].replace(" sequence", "")
    return f"not explainable: the {kind} {missing[2]} exists only on the app's own connections"
