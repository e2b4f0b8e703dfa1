"""Tells whether a SQLite file has changed, whoever changed it, through a connection that never writes.

``PRAGMA data_version`` changes with every commit of every other connection, in this process or another; for a
connection's own commits it does not, and so this one makes none.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Hashable
from itertools import count
from typing import Final
from urllib.parse import quote

from flask_dbopt.engines.protocol import Footprint, Identity
from flask_dbopt.engines.sqlite.footprint import footprint_of
from flask_dbopt.engines.sqlite.identity import pinned
from flask_dbopt.forks import keep_forever

_FOOTPRINTS: Final = 2048
_epochs = count(1)


class SQLiteWatcher:
    """The cache's window to one SQLite file. Opens lazily, never creates the file, never waits for a lock."""

    row_types: frozenset[type] = frozenset((sqlite3.Row,))

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))  # noqa: PTH100  # links stay: they may be turned
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: Identity | None = None
        self._epoch = 0
        self._process = os.getpid()
        self._footprints: dict[str, Footprint] = {}
        self._described: Hashable = None
        """The state of the database in which the schema was last looked at."""
        self._schema: Hashable = None

    def token(self, identity: Identity | None = None) -> Hashable | None:
        """Equal tokens mean no commit in between, and the same file. None: it cannot tell now.

        Size and time of the file are a part of it as well, for a file that was overwritten in place; so a
        checkpoint makes a needless difference, right after the commits that made a needed one.
        """
        if self._process != os.getpid():
            self.abandon()
        with self._lock:
            state = self._state()
            if identity is not None and identity != self._identity:
                return None
            return state

    def footprint(self, sql: str) -> Footprint | None:
        """What ``sql`` touches under the schema of this moment; remembered while the schema stays."""
        if self._process != os.getpid():
            self.abandon()
        with self._lock:
            try:
                return self._footprint(sql)
            except sqlite3.Error:
                return None

    def close(self) -> None:
        """Let go of the handle. A token asked for later opens a new one and equals no earlier token."""
        if self._process != os.getpid():
            self.abandon()
        with self._lock:
            self._let_go()

    def abandon(self) -> None:
        """After a fork, in the child: the inherited handle is neither used nor closed."""
        if self._connection is not None:
            keep_forever(self._connection)
        self._connection = None
        self._footprints = {}
        self._described = self._schema = None
        self._lock = threading.Lock()
        self._process = os.getpid()

    def _state(self) -> Hashable | None:
        """The token, of the file that has our name at this moment."""
        try:
            # The file first: one that takes its place after this came after the look-up began.
            found = os.stat(self.path)  # noqa: PTH116  # half the time of Path.stat
            connection = self._connection
            if connection is None or (found.st_dev, found.st_ino) != self._identity:
                connection = self._open()
            ((version,),) = connection.execute("PRAGMA data_version").fetchall()
        except FileNotFoundError:
            self._let_go()  # a deleted file stays on the disk as long as anybody has it open
            return None
        except (OSError, sqlite3.Error):
            return None  # locked, no permission, no database: not now
        return (self._epoch, version, found.st_size, found.st_mtime_ns)

    def _open(self) -> sqlite3.Connection:
        """A new handle, and which file it is open on."""
        self._let_go()
        with pinned(self.path) as identity:
            try:
                connection = self._connect("ro")
            except sqlite3.OperationalError:
                connection = self._connect("rw")  # WAL mode, and nobody else has it open
            if connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]:
                # A read-only connection cannot make the -shm file, nor tidy up when it is the last one.
                connection.close()
                connection = self._connect("rw")
            found = os.stat(self.path)  # noqa: PTH116
        if (found.st_dev, found.st_ino) != identity:
            connection.close()
            raise OSError("the file was replaced while it was opened")
        self._connection, self._identity, self._epoch = connection, identity, next(_epochs)
        return connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        """Read-only wherever that works, because of files that are replaced.

        A writable connection that is still on the old file takes the journal of the new one for a left-over
        of its own, plays it back and deletes it.
        """
        uri = f"file://{quote(os.fsencode(self.path))}?mode={mode}&cache=private"
        connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA query_only=ON")
            connection.execute("PRAGMA cache_size=-256")
            connection.execute("PRAGMA mmap_size=0")
            # A footprint shows all that a statement may touch, so let the triggers and cascades be seen.
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA recursive_triggers=ON")
            connection.execute("PRAGMA data_version").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        self._identity = None
        self._footprints.clear()
        self._described = self._schema = None
        if connection is not None:
            connection.close()

    def _footprint(self, sql: str) -> Footprint | None:
        state = self._state()
        connection = self._connection
        if state is None or connection is None:
            return None
        if state != self._described:
            ((schema,),) = connection.execute("PRAGMA schema_version").fetchall()
            # EXPLAIN never runs, so it alone would not notice that its copy of the schema is old: this does.
            # It comes second, so that what is remembered may be newer than its mark, but never older.
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
            if schema != self._schema:
                self._footprints.clear()
            self._schema, self._described = schema, state
        footprint = self._footprints.get(sql)
        if footprint is None:
            footprint = footprint_of(connection, sql)
            if footprint is not None:
                if len(self._footprints) >= _FOOTPRINTS:
                    self._footprints.clear()
                self._footprints[sql] = footprint
        return footprint
