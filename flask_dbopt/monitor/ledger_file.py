"""The ledger's file: opened when it is used, made ours or found not to be, renamed aside when it is broken.

Errors come out as ``LedgerError`` and say what is to be done about the file.
"""

from __future__ import annotations

import fcntl
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from flask_dbopt.errors import DBOptError
from flask_dbopt.forks import keep_forever
from flask_dbopt.monitor import schema
from flask_dbopt.monitor.histogram import Merging, merged
from flask_dbopt.monitor.sums import merged_names
from flask_dbopt.shared_file import make_folder

#: Seconds to wait for another worker's transaction; what could not be written then is written next time.
PATIENCE = 0.2
#: The write-ahead log is moved into the file when it has grown to this, while the writer's lock is held:
#: SQLite before 3.51.3 may corrupt a database when a checkpoint races a commit that resets the log.
WAL_LIMIT = 4 << 20

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


class LedgerFile:
    """A file, or memory with ``path`` None. The caller does the locking."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._broken: tuple[int, int] | None = None

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
                if _is_newer(path):
                    raise LedgerForeignError(f"{path} was written by a newer version of Flask-DBOpt meanwhile")
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
            make_folder(self.path.parent)
        connection = sqlite3.connect(
            self.path or ":memory:", timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        connection.create_function("merged_histogram", 2, merged, deterministic=True)
        connection.create_function("merged_names", 2, merged_names, deterministic=True)
        connection.create_aggregate("histograms", 1, Merging)  # type: ignore[arg-type]
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the file ours, or find that it is not."""
        connection.execute("BEGIN")  # one look: between two, another worker may have made the file
        application, version = _made_by(connection)
        is_new = not application and not version and not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        connection.execute("COMMIT")
        if application == schema.APPLICATION and version > schema.VERSION:
            raise LedgerForeignError(f"{self.path} was written by a newer version of Flask-DBOpt")
        if not is_new and (application != schema.APPLICATION or version not in (schema.VERSION, *schema.UPGRADES)):
            raise LedgerForeignError(f"{self.path} is a database of something else")
        if is_new:  # it has nothing to lose: to make it takes 3.9 ms so, and 7.8 with waits for the disk
            connection.execute("PRAGMA synchronous = OFF")
        is_wal = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal"
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if is_wal else 'FULL'}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        if version != schema.VERSION:
            self._upgrade(connection)

    @staticmethod
    def _upgrade(connection: sqlite3.Connection) -> None:
        """Make the tables, or those of an earlier version into ours, unless another worker just did."""
        connection.execute("BEGIN IMMEDIATE")
        _, version = _made_by(connection)
        before, after = schema.UPGRADES.get(version, ((), ()))
        if version != schema.VERSION:
            for statement in (*before, *schema.TABLES.split(";"), *after):
                connection.execute(statement)
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


def _made_by(connection: sqlite3.Connection) -> tuple[int, int]:
    """The application that a file says it belongs to, and in which version."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return application, connection.execute("PRAGMA user_version").fetchone()[0]


def _is_newer(path: Path) -> bool:
    """Whether a file that seemed broken is whole, and of a later version of ours: somebody upgraded it just now."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=PATIENCE)) as connection:
            application, version = _made_by(connection)
    except sqlite3.Error:
        return False
    return application == schema.APPLICATION and version > schema.VERSION


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
