"""Checkpoints off the request path: the housekeeper's, so that no commit has to move the WAL into the database."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from flask_dbopt.engines.sqlite import maintenance
from flask_dbopt.engines.sqlite.turns import Lane

#: Bytes of WAL that are worth a checkpoint: SQLite's own default, 1000 pages.
_WORTH = 4 << 20
#: Seconds to wait for the writers, and for a reader that keeps the WAL from being cut.
_WAIT = 1.0


def worth(limit: int) -> int:
    """Bytes of WAL at which it is moved into the database, where it may grow to ``limit``."""
    return min(_WORTH, limit // 2)


class Checkpoints:
    """Keeps one database's WAL small. ``sweep`` is called every few seconds, by one process of all."""

    def __init__(self, path: Path, lane: Lane, limit: int) -> None:
        """``limit``: bytes at which SQLite does it by itself, should we not come to it."""
        self._path = path
        self._lane = lane
        self._worth = worth(limit)
        self._done: tuple[int, int] | None = None

    def sweep(self) -> maintenance.Checkpoint | None:
        """Move the WAL into the database, if there is enough of it; None when not, or when writers do not pause."""
        if not self._worth:
            return None
        found = self._wal()
        if found is None or found[0] <= self._worth or found == self._done:
            return None
        try:
            about = os.stat(self._path)  # noqa: PTH116  # the same on the connector's side
            turn = self._lane.enter("checkpoint", (about.st_dev, about.st_ino), lambda: _WAIT)
            try:
                done = maintenance.checkpoint(self._path, wait=_WAIT)
            finally:
                self._lane.leave(turn)
        except (OSError, sqlite3.OperationalError):  # busy, or gone: the next sweep tries again
            return None
        # The file stays as large until a writer begins it anew: do not do again what is done.
        self._done = self._wal() if done.complete else None
        return done

    def _wal(self) -> tuple[int, int] | None:
        try:
            about = self._path.with_name(f"{self._path.name}-wal").stat()
        except OSError:
            return None
        return about.st_size, about.st_mtime_ns
