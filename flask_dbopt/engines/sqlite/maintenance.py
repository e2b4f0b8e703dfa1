"""What a person asks of a SQLite file by hand: its condition, statistics, a checkpoint, a vacuum."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask_dbopt.errors import DatabaseUnavailable

PRAGMAS = (
    "journal_mode", "synchronous", "cache_size", "temp_store", "mmap_size", "busy_timeout", "foreign_keys",
    "locking_mode", "wal_autocheckpoint", "journal_size_limit",
)  # fmt: skip
"""What `pragmas` reads: how one connection is tuned."""

_STATISTICS_ROWS = 1000
"""Rows of an index that ANALYZE looks at; https://sqlite.org/lang_analyze.html recommends 100 to 1000."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A database file as it is now; sizes in bytes."""

    page_size: int
    pages: int
    free_pages: int
    wal_bytes: int
    analyzed: bool
    """Whether the planner has statistics at all."""
    journal_mode: str

    @property
    def bytes(self) -> int:
        return self.page_size * self.pages

    @property
    def free_bytes(self) -> int:
        """What a vacuum would give back at least."""
        return self.page_size * self.free_pages


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint moved, in WAL frames."""

    frames: int
    moved: int
    wal_bytes: int
    """The WAL's size afterwards; it is reused from its start where it could not be cut."""

    @property
    def complete(self) -> bool:
        return self.moved >= self.frames


def sqlite_danger(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str:
    """What is dangerous in this SQLite library; empty when nothing is known.

    The WAL-reset bug (https://sqlite.org/wal.html#walresetbug) is in 3.7.0 to 3.51.2, less 3.50.7 and 3.44.6.
    """
    mended = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    if version < (3, 7) or mended:
        return ""
    return (
        f"SQLite {'.'.join(map(str, version[:3]))} has the WAL-reset bug: "
        "a checkpoint that races a commit can, very rarely, corrupt the database"
    )


def pragmas(connection: sqlite3.Connection) -> dict[str, Any]:
    """How this connection is tuned. The names are PRAGMAS. Asked beside the road: it is no query of the app's."""
    cursor = sqlite3.Connection.cursor(connection)
    cursor.row_factory = None
    return {name: (cursor.execute(f"PRAGMA {name}").fetchone() or (None,))[0] for name in PRAGMAS}


def deviations(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each PRAGMA that is not as wanted: name to (found, wanted). None wanted: left to the app."""
    off = {}
    for name, value in wanted.items():
        if value is None or name not in found:
            continue
        if str(found[name]).lower() != str(_WORDS.get(name, {}).get(str(value).upper(), value)).lower():
            off[name] = (found[name], value)
    return off


_WORDS: Mapping[str, Mapping[str, int]] = {
    "synchronous": {"OFF": 0, "NORMAL": 1, "FULL": 2, "EXTRA": 3},
    "temp_store": {"DEFAULT": 0, "FILE": 1, "MEMORY": 2},
    "foreign_keys": {"OFF": 0, "ON": 1, "FALSE": 0, "TRUE": 1, "NO": 0, "YES": 1},
}
"""PRAGMAs that are set with a word and read back as a number."""


def condition(path: Path) -> Condition:
    """Look at a database file without changing it. Raises DatabaseUnavailable."""
    with _opened(path, may_only_read=True) as connection:

        def value(pragma: str) -> Any:
            return connection.execute(f"PRAGMA {pragma}").fetchone()[0]

        analyzed = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'").fetchone()
        return Condition(
            page_size=value("page_size"),
            pages=value("page_count"),
            free_pages=value("freelist_count"),
            wal_bytes=wal_bytes(path),
            analyzed=bool(analyzed[0]),
            journal_mode=value("journal_mode"),
        )


def wal_bytes(path: Path) -> int:
    """Size of the WAL beside a database file; 0 without one."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except OSError:
        return 0


def analyze(path: Path, *, wait: float) -> tuple[str, ...]:
    """Bring the planner's statistics up to date, with a bounded look at each index; the statements it ran."""
    if sqlite3.sqlite_version_info >= (3, 46):  # the first that looks at tables this connection has not used
        statements: tuple[str, ...] = ("PRAGMA optimize = 0x10002",)
    else:
        statements = (f"PRAGMA analysis_limit = {_STATISTICS_ROWS}", "ANALYZE")
    with _opened(path, wait) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()
    return statements


def checkpoint(path: Path, *, wait: float) -> Checkpoint:
    """Move the WAL into the database file.

    The writer's lock is held meanwhile: no commit can reset the WAL under the checkpoint (sqlite_danger).
    Raises sqlite3.OperationalError when a writer does not finish within ``wait`` seconds.
    """
    with _opened(path, wait) as connection:
        if sqlite_danger():
            with _opened(path, wait) as writer:
                writer.execute("BEGIN IMMEDIATE")
                _, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        else:
            _, frames, moved = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return Checkpoint(max(0, frames), max(0, moved), wal_bytes(path))


def vacuum(path: Path, *, wait: float) -> int:
    """Rewrite the file without its free pages; the bytes that gave back. Writers wait until it is done."""
    before = condition(path).bytes
    with _opened(path, wait) as connection:
        connection.execute("VACUUM")
    return before - condition(path).bytes


def announce(path: Path, *, wait: float) -> None:
    """Commit without changing anything (user_version is set to itself), for all who watch to see."""
    with _opened(path, wait) as connection:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")


def journal_mode(path: Path) -> str | None:
    """The file's journal mode, such as "wal"; None when it cannot be asked now."""
    try:
        with _opened(path, 0.0, may_only_read=True) as connection:
            mode: str = connection.execute("PRAGMA journal_mode").fetchone()[0]
            return mode
    except (sqlite3.Error, DatabaseUnavailable):
        return None


@contextmanager
def _opened(path: Path, wait: float = 5.0, *, may_only_read: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection of its own that neither creates a file nor begins transactions by itself.

    It is opened for writing where possible: one that may only read leaves -wal and -shm files behind.
    """
    writable = not may_only_read or os.access(path, os.W_OK)
    uri = f"{path.absolute().as_uri()}?mode={'rw' if writable else 'ro'}"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=wait, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise DatabaseUnavailable(
            f"{path} cannot be opened: {error}",
            hint="is there such a file, and may this user open it?",
        ) from error
    try:
        yield connection
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise DatabaseUnavailable(f"{path} is no SQLite database", hint="look at DBOPT_DATABASE") from error
        raise
    finally:
        connection.close()
