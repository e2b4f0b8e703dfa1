"""The PRAGMAs that every connection gets, and the proof that it has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask_dbopt.engines.sqlite.checkpoints import worth

_SYNCHRONOUS = {"OFF": 0, "NORMAL": 1, "FULL": 2, "EXTRA": 3}
_TEMP_STORE = {"DEFAULT": 0, "FILE": 1, "MEMORY": 2}


@dataclass(frozen=True, slots=True)
class Fault:
    """A PRAGMA that did not take."""

    pragma: str
    wanted: str
    found: str


class Tuning:
    """Applies PRAGMAs to a new connection. A value of None leaves that one alone."""

    def __init__(self, pragmas: Mapping[str, Any]) -> None:
        self._named = frozenset(pragmas)
        self.wanted = {name: value for name, value in pragmas.items() if value is not None}
        self._statements = tuple(
            f"PRAGMA {name}={value}"
            for name, value in self.wanted.items()
            if name not in ("journal_mode", "synchronous")
        )

    def apply(self, connection: sqlite3.Connection) -> tuple[Fault, ...]:
        """Tune one connection and read back what it took; a fault is told, never raised: the app can still work.

        A read-only file and an in-memory database keep what they have. So does a file without content: the app may
        yet choose its page size, and switching to WAL would fix it.
        """
        cursor = sqlite3.Connection.cursor(connection)
        cursor.row_factory = None
        execute = cursor.execute
        for statement in self._statements:
            execute(statement).fetchall()
        is_readonly = False
        mode = str(execute("PRAGMA journal_mode").fetchone()[0]).upper()
        wanted_mode = str(self.wanted.get("journal_mode", mode)).upper()
        if mode != wanted_mode and mode != "MEMORY" and execute("PRAGMA page_count").fetchone()[0]:
            try:
                mode = str(execute(f"PRAGMA journal_mode={wanted_mode}").fetchone()[0]).upper()
            except sqlite3.OperationalError as error:
                # Somebody may hold the file right now: then the next connection tries again.
                if "readonly" in str(error):
                    is_readonly = True
        if "synchronous" in self.wanted and (mode == "WAL" or self.wanted["synchronous"] != "NORMAL"):
            # In other modes NORMAL can corrupt the database at a power cut (sqlite.org/pragma.html#pragma_synchronous).
            execute(f"PRAGMA synchronous={self.wanted['synchronous']}").fetchall()
        faults = self._faults(execute, mode)
        return tuple(fault for fault in faults if not (is_readonly and fault.pragma == "journal_mode"))

    def leave_checkpoints(self, connection: sqlite3.Connection, limit: int) -> None:
        """Somebody else checkpoints: a commit does so only past ``limit`` bytes of WAL. What was asked for wins."""
        cursor = sqlite3.Connection.cursor(connection)
        cursor.row_factory = None
        pages = max(1, limit // int(cursor.execute("PRAGMA page_size").fetchone()[0]))
        for name, value in (("wal_autocheckpoint", pages), ("journal_size_limit", worth(limit))):
            if name not in self._named:
                cursor.execute(f"PRAGMA {name}={value}").fetchall()

    def _faults(self, execute: Callable[[str], sqlite3.Cursor], mode: str) -> tuple[Fault, ...]:
        faults = []
        for name, value in self.wanted.items():
            row = execute(f"PRAGMA {name}").fetchone()
            found = "unknown to this SQLite" if row is None else str(row[0])
            if mode != "WAL" and name in ("journal_mode", "synchronous"):
                if name == "journal_mode" and found.upper() != str(value).upper():
                    faults.append(Fault(name, str(value), found))
            elif found.upper() != _as_read_back(name, value):
                faults.append(Fault(name, str(value), found))
        return tuple(faults)


def _as_read_back(name: str, value: str | int) -> str:
    """SQLite takes words and answers numbers."""
    words = {"synchronous": _SYNCHRONOUS, "temp_store": _TEMP_STORE}.get(name, {})
    return str(words.get(str(value).upper(), value)).upper()
