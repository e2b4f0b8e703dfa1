"""The book that all workers write: an SQLite file of our own to which each adds what it counted.

Every flush is one transaction that adds to shared rows, so a worker that is killed takes at most its last
interval with it. Errors come out as ``LedgerError`` and say what is to be done about the file.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from flask_dbopt.errors import DBOptError
from flask_dbopt.forks import keep_forever
from flask_dbopt.monitor import schema, totals
from flask_dbopt.monitor.figures import Statement, Worker
from flask_dbopt.monitor.histogram import Merging, merged, unpack
from flask_dbopt.monitor.tally import (
    MOST_STATEMENTS,
    OTHER,
    OTHER_ID,
    EndpointSum,
    QuerySum,
    Shape,
    Statements,
    Steps,
    Tally,
    merged_names,
)

#: Seconds to wait for another worker's transaction; what could not be written then is written next time.
PATIENCE = 0.2
#: The write-ahead log is moved into the file when it has grown to this, while the writer's lock is held:
#: SQLite before 3.51.3 may corrupt a database when a checkpoint races a commit that resets the log.
WAL_LIMIT = 4 << 20
#: Seconds after its last heartbeat that a worker's row is cleared away. It is not *shown* long before that.
FORGOTTEN = 600

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class LedgerError(DBOptError):
    """The ledger cannot be used now: no room, no permission, a failing disk. Later it may be."""


class LedgerBusyError(LedgerError):
    """Somebody else was writing all the time we waited."""


class LedgerBrokenError(LedgerError):
    """The file is no database, damaged, or not what we once made of it."""


class LedgerForeignError(LedgerError):
    """The file belongs to a newer version of this package or to somebody else; it is left alone."""


class Ledger:
    """One book: a file, or memory with ``path`` None. Opened when first used; the caller does the locking."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._broken: tuple[int, int] | None = None

    # --- writing ---

    def write(self, tally: Tally, worker: Worker | None) -> None:
        """Add a tally, and the worker's heartbeat and gauges, in one transaction."""
        with self._transaction() as connection:
            _add(connection, *tally.rows())
            totals.add(connection, tally)
            if worker is not None:
                row = (worker.id, worker.pid, worker.host, worker.started, worker.heartbeat)
                connection.execute(schema.ADD_WORKER, (*row, json.dumps(dict(worker.gauges))))
        self._checkpoint_if_large()

    def absorb(self, other: Ledger) -> None:
        """Add everything another book holds, what alerts remember included, in one transaction."""
        with other._reading() as source:
            tables = ("statement", *schema.SLOTS)
            rows = {name: source.execute(f"SELECT * FROM {name}").fetchall() for name in (*tables, *schema.REMEMBERED)}  # noqa: S608
        with self._transaction() as connection:
            _add(connection, *(rows[name] for name in tables))
            for name, statement in schema.REMEMBERED.items():
                connection.executemany(statement, rows[name])

    def leave(self, worker_id: str) -> None:
        """The worker is gone; its counts stay."""
        self.change(("DELETE FROM worker WHERE id = ?", [(worker_id,)]))

    def reset(self) -> None:
        """Forget every figure. Workers, alerts and the totals of all statements stay."""
        self.change(*((statement, [()]) for statement in schema.DROP_ALL))

    def change(self, *changes: tuple[str, list[tuple[Any, ...]]]) -> None:
        """Run statements, each with its rows of values, in one transaction."""
        with self._transaction() as connection:
            for statement, rows in changes:
                connection.executemany(statement, rows)

    def maintain(self, now: float, *, keep_seconds: float, limit: int, every: float = 60) -> None:
        """Add old slots up, drop what is past its time, stay under ``limit`` bytes: once a minute."""
        with self._transaction() as connection:
            mark = connection.execute("SELECT at FROM mark WHERE name = 'maintained'").fetchone()
            if mark is not None and 0 <= now - mark[0] < every:
                return
            connection.execute("INSERT OR REPLACE INTO mark VALUES ('maintained', ?)", (now,))
            connection.execute("DELETE FROM worker WHERE abs(? - heartbeat) > ?", (now, FORGOTTEN))
            connection.execute("DELETE FROM alert WHERE resolved_at < ?", (now - keep_seconds,))
            dropped = self._drop_before(connection, now - keep_seconds)
            self._roll_up(connection, now, 1)
            for haste in (2, 4, 8, 16, 32):
                if self._used(connection) <= limit:
                    break
                self._roll_up(connection, now, haste)
            while self._used(connection) > limit:
                first, last = connection.execute("SELECT min(start), max(start) FROM query_slot").fetchone()
                if first is None or not self._drop_before(connection, first + (last - first) / 4 + 1):
                    break
                dropped = True
            if dropped:
                for statement in schema.DROP_UNUSED:
                    connection.execute(statement)

    @staticmethod
    def _roll_up(connection: sqlite3.Connection, now: float, haste: int) -> None:
        for (fine, charts, queries), (coarse, *_) in pairwise(schema.RESOLUTIONS):
            for table, statements in schema.ROLL_UP.items():
                keep = queries if table == "query_slot" else charts
                before = int((now - keep / haste) // coarse) * coarse
                for statement in statements:
                    connection.execute(statement, {"fine": fine, "before": before, "coarse": coarse})

    @staticmethod
    def _drop_before(connection: sqlite3.Connection, before: float) -> bool:
        rows = [connection.execute(s, {"before": before}).rowcount for s in schema.DROP_BEFORE]
        return any(rows)

    @staticmethod
    def _used(connection: sqlite3.Connection) -> int:
        pages, free, size = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    # --- reading ---

    def queries(self, since: float, only: str | None = None) -> Statements:
        """The statements of the slots that reach beyond ``since``, or only the one with this id."""
        found: Statements = {}
        with self._reading() as connection:
            for row in connection.execute(schema.READ_QUERIES, {"since": since, "id": only}):
                shape = Shape(row[0], row[1], row[2], row[3], json.loads(row[4]), row[5])
                query = QuerySum(*row[7:15])
                query.buckets = unpack(row[15])
                found[row[0]] = (query, shape)
        return found

    def workload(self, since: float) -> list[Statement]:
        """What ran in the same slots, without the rest: much quicker to read."""
        with self._reading() as connection:
            return [Statement(*row) for row in connection.execute(schema.READ_WORKLOAD, {"since": since})]

    def peaks(self, since: float, at_least: float) -> dict[str, tuple[float, str]]:
        """The longest run, and the text, of each statement that took ``at_least`` seconds once."""
        with self._reading() as connection:
            rows = connection.execute(schema.READ_PEAKS, {"since": since, "at_least": at_least}).fetchall()
        return {name: (most, query) for name, most, query in rows}

    def endpoints(self, since: float, base: int = 0, width: int = 1 << 60) -> Steps:
        """The sums by step of ``width`` seconds from ``base`` on, and by endpoint."""
        found: Steps = {}
        names = {"since": since, "base": base, "width": width}
        with self._reading() as connection:
            for row in connection.execute(schema.READ_ENDPOINTS, names):
                found[row[0], row[1]] = endpoint = EndpointSum(*row[2:8])
                endpoint.buckets = unpack(row[8])
        return found

    def counters(self, since: float, base: int = 0, width: int = 1 << 60) -> dict[tuple[int, str], float]:
        """The counters in the same manner."""
        names = {"since": since, "base": base, "width": width}
        with self._reading() as connection:
            return {(row[0], row[1]): row[2] for row in connection.execute(schema.READ_COUNTERS, names)}

    def first_slot(self) -> int | None:
        """Where the oldest slot starts."""
        with self._reading() as connection:
            found: int | None = connection.execute(schema.READ_FIRST).fetchone()[0]
            return found

    def workers(self) -> list[Worker]:
        """Every worker that flushed lately, whether it lives or not."""
        with self._reading() as connection:
            rows = connection.execute("SELECT * FROM worker ORDER BY started, id").fetchall()
            return [
                Worker(name, pid, host, started, heartbeat, json.loads(gauges))
                for name, pid, host, started, heartbeat, gauges in rows
            ]

    def rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """What a SELECT finds."""
        with self._reading() as connection:
            return connection.execute(statement, values).fetchall()

    # --- the file ---

    def close(self) -> None:
        """Let go of the file; it is opened again when used again."""
        connection, self._connection, self._identity = self._connection, None, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def abandon(self) -> None:
        """After a fork, in the child: forget the inherited handle without ever touching or finalizing it."""
        if self._connection is not None:
            keep_forever(self._connection)
        self._connection = self._identity = None

    def set_aside(self) -> Path | None:
        """Rename the broken file and what belongs to it: its new name, or None if another worker did."""
        self.close()
        path, broken, self._broken = self.path, self._broken, None
        if path is None:
            return None
        try:
            with path.with_name(path.name + ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if broken is not None and _identity(path) != broken:
                    return None
                stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
                aside = path.with_name(f"{path.name}.broken-{stamp}")
                for suffix in ("-wal", "-shm", ""):
                    with suppress(FileNotFoundError):
                        path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
                return aside
        except OSError as error:
            raise LedgerError(f"{path} is broken and cannot be set aside: {error.strerror}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, on the file that has our name now; its errors as ours."""
        try:
            yield self._opened()
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
            if code in _BUSY:
                raise LedgerBusyError(f"{self.path}: {error}") from error
            if code in _BROKEN:
                raise self._found_broken(error) from error
            self.close()
            raise LedgerError(f"{self.path}: {error}") from error
        except (ValueError, TypeError, struct.error) as error:
            raise self._found_broken(error) from error
        except OSError as error:
            raise LedgerError(f"{self.path}: {error.strerror}") from error

    def _found_broken(self, error: Exception) -> LedgerBrokenError:
        self._broken = self._identity or self._broken
        self.close()
        return LedgerBrokenError(f"{self.path}: {error}")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None:
            if self.path is None or _identity(self.path) == self._identity:
                return self._connection
            self.close()
        self._connection = connection = self._connect()
        try:
            if self.path is None:
                connection.executescript(schema.TABLES)
            else:
                self._identity = _identity(self.path)
                self._prepare(connection)
                self._identity = _identity(self.path)
        except LedgerForeignError:
            self.close()
            raise
        except sqlite3.Error:
            # Half prepared; what is found broken keeps its identity until it is set aside.
            self._broken = self._identity
            self.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        if self.path is not None:
            _make_folder(self.path.parent)
        connection = sqlite3.connect(
            self.path or ":memory:", timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        connection.create_function("merged_histogram", 2, merged, deterministic=True)
        connection.create_function("merged_names", 2, merged_names, deterministic=True)
        connection.create_aggregate("histograms", 1, Merging)  # type: ignore[arg-type]
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the file ours, or find that it is not."""
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if (application, version) != (schema.APPLICATION, schema.VERSION):
            if application == schema.APPLICATION and version > schema.VERSION:
                raise LedgerForeignError(f"{self.path} was written by a newer version of Flask-DBOpt")
            if application or version or connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise LedgerForeignError(f"{self.path} is a database of something else")
        if not version:  # a new file has nothing to lose: to make it takes 3.9 ms so, and 7.8 with waits for the disk
            connection.execute("PRAGMA synchronous = OFF")
        is_wal = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal"
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if is_wal else 'FULL'}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        if version == schema.VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        for table in schema.TABLES.split(";"):
            connection.execute(table)
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION}")
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")
        connection.execute("COMMIT")

    def _checkpoint_if_large(self) -> None:
        if self.path is None or self._connection is None:
            return
        with suppress(OSError, sqlite3.Error):
            if self.path.with_name(self.path.name + "-wal").stat().st_size < WAL_LIMIT:
                return
            other = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            finally:
                other.close()
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")


def _add(
    connection: sqlite3.Connection,
    statements: Iterable[tuple[Any, ...]],
    queries: Iterable[tuple[Any, ...]],
    endpoints: Iterable[tuple[Any, ...]],
    counters: Iterable[tuple[Any, ...]],
) -> None:
    """Add rows as the tables hold them; statements past the most that are kept share one row."""
    crowded: dict[str, str] = {}
    count = -1
    for row in statements:
        if connection.execute("SELECT 1 FROM statement WHERE id = ?", row[:1]).fetchone() is None:
            if count < 0:
                count = connection.execute("SELECT count(*) FROM statement").fetchone()[0]
            count += 1
            if count > MOST_STATEMENTS and row[0] != OTHER_ID:
                crowded[row[0]] = OTHER_ID
                row = (OTHER_ID, OTHER, *row[2:])
        connection.execute(schema.ADD_STATEMENT, row)
    connection.executemany(schema.ADD_QUERY, ((*row[:2], crowded.get(row[2], row[2]), *row[3:]) for row in queries))
    connection.executemany(schema.ADD_ENDPOINT, endpoints)
    connection.executemany(schema.ADD_COUNTER, counters)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _make_folder(folder: Path) -> None:
    """The state folder, which keeps itself out of the app's repository unless others use it too."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        if not any(folder.iterdir()):
            (folder / ".gitignore").write_text("*\n")
