"""Reads one committed state of a SQLite database out, page by page, and loads one in through SQLite itself.

Reading happens in a child process only: it opens the raw files, and closing any descriptor of a database file
drops every lock the process holds on it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask_dbopt.errors import BackupError, DBOptError, RestoreError

_INDEX_HEADER = 48
"""Bytes of the WAL-index header in ``-shm``; two copies stand one after the other, native byte order."""
_WAL_HEADER = 32
_FRAME_HEADER = 24
_READ_AHEAD = 1 << 20
_POLL = 0.001
"""Seconds between two looks at a locked database. SQLite's own busy handler grows slow and starves."""
_STEP_PAGES = 4096
_DONE = 101
"""SQLITE_DONE, which the sqlite3 module does not name."""
_MISSING_COLLATION = re.compile(r"no such collation sequence: (.+)")
_MISSING_FUNCTION = re.compile(r"(?:unknown|no such) function: (\w+)")
_CONSTRAINT = re.compile(r"NULL value in |CHECK constraint failed in ")
_ORDER = re.compile(r".*not in PRIMARY KEY order")

_kept: list[int] = []
"""Raw descriptors, open until the process ends. See the first lines of this file."""


class PinnedPages:
    """A Snapshot: the database file under the frames of the WAL that belong to the pinned state."""

    def __init__(self, file: int, wal: int, frames: dict[int, int], page_size: int, page_count: int) -> None:
        self.page_size = page_size
        self.page_count = page_count
        self._file = file
        self._wal = wal
        self._frames = frames
        self._ahead = b""
        self._first = 0

    def page(self, number: int) -> bytes:
        size = self.page_size
        frame = self._frames.get(number)
        if frame is not None:
            return os.pread(self._wal, size, frame)
        start = (number - self._first) * size
        if not 0 <= start < len(self._ahead):
            data = os.pread(self._file, max(_READ_AHEAD, size), (number - 1) * size)
            # Past the end of the file SQLite reads zeros: a page that was freed before it was ever written.
            self._ahead = data + bytes(-len(data) % size) if data else bytes(size)
            self._first = number
            start = 0
        return self._ahead[start : start + size]


class EmptyPages:
    """The Snapshot of a database file of no bytes: the one page SQLite would begin it with."""

    def __init__(self, page_size: int) -> None:
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.execute(f"PRAGMA page_size={page_size}")
            connection.execute("PRAGMA user_version=1")
            connection.execute("PRAGMA user_version=0")
            self._page = connection.serialize()
        self.page_size = page_size
        self.page_count = 1

    def page(self, number: int) -> bytes:
        return self._page


class SQLiteSnapshotter:
    """The backup room's window to one SQLite file. ``patience`` is seconds to wait for one that is locked."""

    def __init__(self, path: str | os.PathLike[str], *, patience: float = 30.0) -> None:
        self.path = Path(path)
        self._patience = patience

    def recipe(self) -> dict[str, Any]:
        return {"engine": __name__, "path": str(self.path.absolute()), "patience": self._patience}

    def size(self) -> int:
        """An upper bound that opens nothing: the file and its whole WAL."""
        path = Path(self._existing())
        wal = Path(f"{path}-wal")
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size + wal.stat().st_size
        return path.stat().st_size

    @contextlib.contextmanager
    def pin(self) -> Iterator[PinnedPages | EmptyPages]:
        """The newest committed state. WAL writers feel nothing; other journal modes hold commits up.

        The state is known exactly when the WAL-index header reads the same before and after our read
        transaction began, because any commit changes it.
        """
        path = self._existing()
        identity = _identity(Path(path).stat())
        with _translated(f"cannot read {self.path}", BackupError):
            connection = _open(path)
        try:
            with _translated(f"cannot read {self.path}", BackupError):
                file = _keep(path)
                if _identity(os.fstat(file)) != identity or _identity(Path(path).stat()) != identity:
                    raise BackupError(f"{self.path} was replaced meanwhile", hint="take the backup again")
                snapshot = self._pinned(connection, path, file)
            yield snapshot
        finally:
            connection.close()

    def check(self, path: Path, *, thorough: bool = False) -> tuple[str, ...]:
        """What quick_check (thorough: integrity_check) finds; constraints the app itself broke are no damage.

        The file must be one that nobody writes to. Collations and functions that only the app has are stood
        in for, and then quick_check has to do: only the app's own could compare index content.
        """
        try:
            with contextlib.closing(_open_frozen(path)) as connection:
                connection.execute("PRAGMA ignore_check_constraints=ON")
                return _faults(connection, thorough)
        except sqlite3.DatabaseError as error:
            return (str(error),)

    def load(self, source: Path, *, deadline: float) -> None:
        """One transaction through SQLite's backup API: others see the old or the new state, without restart.

        ``deadline`` is seconds from now. `Connection.backup()` itself ignores the connection's timeout and
        would retry for ever. A database that does not exist is made.
        """
        until = time.monotonic() + deadline
        path = os.path.realpath(self.path)
        timeout = min(self._patience, deadline)
        with (
            _translated(f"cannot restore into {self.path}", RestoreError),
            contextlib.closing(_open_frozen(source)) as new,
            contextlib.closing(sqlite3.connect(path, timeout=timeout, isolation_level=None)) as live,
        ):
            self._replace(live, new, until, deadline)

    def _replace(self, live: sqlite3.Connection, new: sqlite3.Connection, until: float, deadline: float) -> None:
        mode = _pragma(live, "journal_mode")
        empty = _pragma(live, "page_count") == 0
        sizes = _pragma(live, "page_size"), _pragma(new, "page_size")
        alone = mode == "wal" and sizes[0] != sizes[1] and not empty
        if alone:
            self._leave_wal(live, sizes)

        def watch(status: int, remaining: int, total: int) -> None:
            if status != _DONE and time.monotonic() > until:
                raise RestoreError(
                    f"{self.path} could not be written within {deadline:g} s",
                    hint="another connection keeps it locked; find it, or allow more time",
                )

        try:
            new.backup(live, pages=_STEP_PAGES, progress=watch, sleep=0.02)
        finally:
            if alone:
                live.execute("PRAGMA locking_mode=NORMAL")
            with contextlib.suppress(sqlite3.OperationalError):  # others may have it open: then it stays as it is
                if not empty and _pragma(live, "journal_mode") != mode:
                    live.execute(f"PRAGMA journal_mode={mode}")
        live.execute("SELECT count(*) FROM sqlite_schema").fetchone()

    def _leave_wal(self, live: sqlite3.Connection, sizes: tuple[Any, Any]) -> None:
        """A WAL database keeps its page size; it can change only while nobody else has the file open."""
        try:
            live.execute("PRAGMA locking_mode=EXCLUSIVE")
            left = live.execute("PRAGMA journal_mode=DELETE").fetchone()[0] == "delete"
        except sqlite3.OperationalError:
            left = False
        if not left:
            raise RestoreError(
                f"{self.path} is in use, and its pages have {sizes[0]} bytes, those of the backup {sizes[1]}",
                hint="stop every process that has it open, then restore again from the command line",
            )

    def _existing(self) -> str:
        """The file itself: SQLite puts ``-wal`` and ``-shm`` beside the file a link points at."""
        if self.path.is_dir():
            raise BackupError(f"{self.path} is a folder", hint="DBOPT_DATABASE must name the database file")
        if not self.path.exists():
            raise BackupError(f"there is no database at {self.path}", hint="start the app once, or fix the path")
        return os.path.realpath(self.path)

    def _pinned(self, connection: sqlite3.Connection, path: str, file: int) -> PinnedPages | EmptyPages:
        index: int | None = None
        until = time.monotonic() + self._patience
        while time.monotonic() < until:
            before = _index_header(index)
            if not _begin(connection):
                time.sleep(_POLL)
                continue
            in_wal = _pragma(connection, "journal_mode") == "wal"
            if in_wal and index is None:
                index = _keep(f"{path}-shm")
            elif not in_wal or _settled(before, _index_header(index)):
                page_size, page_count = _pragma(connection, "page_size"), _pragma(connection, "page_count")
                if page_count == 0:
                    return EmptyPages(page_size)
                frames: dict[int, int] = {}
                wal = -1
                if in_wal and index is not None:
                    wal, frames = _frames(f"{path}-wal", index, before, page_size)
                return PinnedPages(file, wal, frames, page_size, page_count)
            connection.execute("ROLLBACK")
        raise BackupError(
            f"{self.path} was locked or written to all the time for {self._patience:g} s",
            hint="another process holds it; try again when it is done",
        )


def from_recipe(recipe: dict[str, Any]) -> SQLiteSnapshotter:
    """The Snapshotter again, in another process."""
    return SQLiteSnapshotter(recipe["path"], patience=recipe["patience"])


def _open(path: str) -> sqlite3.Connection:
    """Writable where the file is: what a dead process left half-done must be rolled back first."""
    connection = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=0, isolation_level=None)
    connection.execute("PRAGMA query_only=ON")
    return connection


def _begin(connection: sqlite3.Connection) -> bool:
    """Begin to read, which pins the state; False while it is locked. Needs no sound schema."""
    connection.execute("BEGIN")
    try:
        connection.execute("PRAGMA schema_version").fetchall()
    except sqlite3.OperationalError as error:
        connection.execute("ROLLBACK")
        if "locked" not in str(error):
            raise
        return False
    return True


def _index_header(index: int | None) -> bytes:
    """Both copies of the WAL-index header."""
    return os.pread(index, 2 * _INDEX_HEADER, 0) if index is not None else b""


def _settled(before: bytes, after: bytes) -> bool:
    """Whether the WAL-index header stood still, whole (its two copies agree)."""
    return len(before) == 2 * _INDEX_HEADER and before == after and before[:48] == before[48:]


def _frames(wal_path: str, index: int, header: bytes, page_size: int) -> tuple[int, dict[int, int]]:
    """Where the pinned state's pages lie in the WAL: page number to offset; a page's last frame counts.

    Once every frame was copied back ("backfilled"), the database file has them all and the WAL may be
    overwritten under a reader; before that our read lock keeps the frames as they are. The count only grows
    within one WAL.
    """
    (last,) = struct.unpack_from("=I", header, 16)
    (backfilled,) = struct.unpack("=I", os.pread(index, 4, 2 * _INDEX_HEADER))
    if last == 0 or backfilled >= last:
        return -1, {}
    salts = header[32:40]
    wal = os.open(wal_path, os.O_RDONLY | os.O_CLOEXEC)
    _kept.append(wal)
    frames: dict[int, int] = {}
    step = _FRAME_HEADER + page_size
    for offset in range(_WAL_HEADER, _WAL_HEADER + last * step, step):
        head = os.pread(wal, _FRAME_HEADER, offset)
        if head[8:16] != salts:
            raise BackupError("the WAL changed under a pinned read transaction", hint="take the backup again")
        frames[int.from_bytes(head[:4], "big")] = offset + _FRAME_HEADER
    return wal, frames


def _faults(connection: sqlite3.Connection, thorough: bool) -> tuple[str, ...]:
    stood_in = False
    for _ in range(200):
        deep = thorough and not stood_in
        try:
            rows = connection.execute("PRAGMA integrity_check" if deep else "PRAGMA quick_check").fetchall()
            break
        except sqlite3.OperationalError as error:
            if match := _MISSING_COLLATION.search(str(error)):
                connection.create_collation(match[1], lambda a, b: (a > b) - (a < b))
            elif match := _MISSING_FUNCTION.search(str(error)):
                connection.create_function(match[1], -1, lambda *_: None, deterministic=True)
            else:
                raise
            stood_in = True
    found = [line for (row,) in rows for line in str(row).splitlines() if line != "ok"]
    return tuple(line for line in found if not _CONSTRAINT.match(line) and not (stood_in and _ORDER.match(line)))


def _keep(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _kept.append(descriptor)
    return descriptor


def _open_frozen(path: Path) -> sqlite3.Connection:
    """A file that nobody writes to: no locks, and no ``-shm`` beside it."""
    return sqlite3.connect(f"file:{quote(os.path.realpath(path))}?immutable=1", uri=True, isolation_level=None)


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _translated(what: str, kind: type[DBOptError]) -> Iterator[None]:
    """SQLite's errors as ours, each with what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise kind(f"{what}: {error}", hint=_advice(str(error))) from error


def _advice(message: str) -> str:
    if "locked" in message or "busy" in message:
        return "another process holds it; try again when it is done"
    if "not a database" in message or "malformed" in message:
        return "the file is damaged or no SQLite database; restore a backup with --to FILE and look at it first"
    if "full" in message:
        return "free some disk space"
    return "check that the file and its folder can be read and written by this user"
