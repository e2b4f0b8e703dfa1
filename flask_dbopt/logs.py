"""Log files that several workers write at once: a line a record, rotated without losing one."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flask_dbopt import forks
from flask_dbopt.shared_file import Grip, SharedFile

_TOP = logging.getLogger("flask_dbopt")
_OURS = logging.INFO - 1
"""The level that our logger has while there are log files: as INFO, but told from one that the app has set."""

NAMES = ("admin", "backup", "connection_pool", "monitoring", "query_metrics")
"""Our loggers below the top one; a filter has to be given to each."""
FILES = {
    "flask_dbopt.connection_pool": "connection_pool.log",
    "flask_dbopt.query_metrics": "query_metrics.log",
    "flask_dbopt.backup": "backup.log",
}
"""By logger; what else we log goes to …"""
REST = "monitoring.log"

_LONGEST = 16 << 10
"""Characters of a line; a traceback has its place in it."""
_REST_SECONDS = 1.0
"""How long a file that could not be written is left alone: a full disk is not asked at each line."""
_ESCAPED = {number: f"\\x{number:02x}" for number in (*range(32), 127, *range(128, 160))}
_ESCAPED |= {number: f"\\u{number:04x}" for number in (*range(0x2028, 0x202F), *range(0x2066, 0x206A))}
_ESCAPED |= {10: "\\n", 13: "\\r", 9: "\\t"}
"""Also what other readers take for the end of a line, and what lets them show one backwards."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a file is rotated, and how many old ones stay."""

    max_bytes: int = 10 << 20
    max_seconds: float = 7 * 86_400.0
    """Since its first line."""
    keep: int = 5


class LogFile:
    """One log file. ``append`` never raises: what could not be written is counted, and said once it can be."""

    def __init__(self, path: Path, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.lost = 0
        """Lines, since the last that was written."""
        self.problem = ""
        self._bounds = bounds
        self._clock = clock
        self._file = SharedFile(path)
        self._rests_until = 0.0
        self._begun: tuple[int, float] | None = None
        """The inode that was looked at, and the time of its first line."""

    def append(self, line: str) -> None:
        """Write one line, whole."""
        now = self._clock()
        if self.lost and 0 < self._rests_until - now <= _REST_SECONDS:
            self.lost += 1
            return
        told = line
        if self.lost:
            told = f"{stamp(now)} {os.getpid()} ERROR flask_dbopt: lines lost: {self.lost}, {self.problem}\n{line}"
        try:
            self._write(f"{told}\n".encode(errors="backslashreplace"), now)
        except OSError as error:
            self.lost += 1
            self.problem = f"{error.strerror or error} ({self.path})"
            self._rests_until = now + _REST_SECONDS
        else:
            self.lost, self.problem = 0, ""

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _write(self, data: bytes, now: float) -> None:
        try:
            with self._file.held() as grip:
                is_due = self._is_due(grip, len(data), now) and self._rotate()
                if not is_due:
                    grip.append(data if grip.is_whole else b"\n" + data)
            if is_due:
                with self._file.held() as grip:
                    grip.append(data)
        except TimeoutError:  # whoever has it is stopped: his line and ours are each written in one piece
            self._file.append_unheld(data)

    def _is_due(self, grip: Grip, more: int, now: float) -> bool:
        if grip.size == 0:
            return False
        if self._begun is None or self._begun[0] != grip.inode:
            self._begun = grip.inode, _moment(grip.read(24, 0), now)
        return grip.size + more > self._bounds.max_bytes or now - self._begun[1] > self._bounds.max_seconds

    def _rotate(self) -> bool:
        """While it is held: ``.1`` is the youngest of the old ones. Whether there was a new name for it."""
        try:
            for number in range(self._bounds.keep - 1, 0, -1):
                with suppress(FileNotFoundError):
                    self._old(number).rename(self._old(number + 1))
            self.path.rename(self._old(1))
        except OSError:  # a folder that takes no new names: the file grows on
            return False
        return True

    def _old(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


class Logs:
    """The log files of one app in one folder. Apps of one process that share a folder share its files."""

    def __init__(self, folder: Path, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._bounds = bounds
        self._clock = clock
        self._is_open = False

    def open(self) -> None:
        """From now on our loggers write there, from INFO on; what reaches the app's own handlers stays as it was."""
        if not self._is_open:
            self._is_open = True
            _outlet.add(self.folder, self._bounds, self._clock)

    def tend(self) -> None:
        """See that our level is still there: an app that sets up logging late may take it away."""
        if self._is_open:
            _outlet.attach()

    def close(self) -> None:
        """No more; a second time is harmless."""
        if self._is_open:
            self._is_open = False
            _outlet.remove(self.folder)

    def notices(self) -> list[str]:
        """Where lines are lost, or never come, as sentences."""
        told = [
            f"{file.path.name} cannot be written (lines lost so far: {file.lost}): {file.problem}"
            for file in _outlet.files_of(self.folder)
            if file.lost
        ]
        if self._is_open and any(logger.disabled for logger in loggers()):
            told.append(
                "the app's logging configuration has disabled our loggers: "
                "give it disable_existing_loggers=False, or configure it before DBOptimizer"
            )
        return told


class _Outlet(logging.Filter):
    """What our loggers ask about each record while any folder is open: it writes, and lets through what is due.

    A filter and no handler, so that neither our loggers' handlers nor their propagation change, and so that each of
    the app's handlers gets just what it would get without us, although our level is lower.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folders: dict[Path, tuple[dict[str, LogFile], int]] = {}
        self.abandon()
        forks.watch(self)

    def let_go(self) -> None:
        """Before a fork, in the parent: nothing has to happen."""

    def abandon(self) -> None:
        """After a fork, in the child: a lock that nobody holds."""
        self._change = threading.Lock()

    def add(self, folder: Path, bounds: Bounds, clock: Callable[[], float]) -> None:
        with self._change:
            files, users = self._folders.get(folder, ({}, 0))
            files = files or {name: LogFile(folder / name, bounds, clock) for name in (*FILES.values(), REST)}
            self._folders = {**self._folders, folder: (files, users + 1)}
        self.attach()

    def remove(self, folder: Path) -> None:
        with self._change:
            files, users = self._folders[folder]
            others = {place: kept for place, kept in self._folders.items() if place != folder}
            self._folders = others if users == 1 else {**others, folder: (files, users - 1)}
            if users == 1:
                for file in files.values():
                    file.close()
        self.attach()

    def attach(self) -> None:
        """Be where we are needed, and nowhere else."""
        with self._change:
            for logger in loggers():
                if self._folders:
                    logger.addFilter(self)  # which adds it once
                else:
                    logger.removeFilter(self)
            if _TOP.level in (logging.NOTSET, _OURS):
                _TOP.setLevel(_OURS if self._folders else logging.NOTSET)

    def files_of(self, folder: Path) -> list[LogFile]:
        return list(self._folders.get(folder, ({}, 0))[0].values())

    def filter(self, record: logging.LogRecord) -> bool:
        with suppress(Exception):  # such as a message whose arguments do not fit: the app's handlers will say so
            line = written(record)
            for files, _ in self._folders.values():
                files[FILES.get(record.name, REST)].append(line)
        return record.levelno >= _level_without_us(record)


_outlet = _Outlet()


def loggers() -> list[logging.Logger]:
    """All of ours."""
    return [_TOP, *(logging.getLogger(f"{_TOP.name}.{name}") for name in NAMES)]


def written(record: logging.LogRecord) -> str:
    """A record as one line: UTC time, process, level, logger, message; what would break the line is escaped."""
    told = record.getMessage()
    if record.exc_info:
        told += "\n" + logging.Formatter().formatException(record.exc_info)
    told = told.translate(_ESCAPED)
    told = told if len(told) <= _LONGEST else told[: _LONGEST - 1] + "…"
    return f"{stamp(record.created)} {record.process or os.getpid()} {record.levelname} {record.name}: {told}"


def stamp(at: float) -> str:
    """ISO time in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(begin: bytes, otherwise: float) -> float:
    try:
        return datetime.fromisoformat(begin.decode("ascii")).timestamp()
    except ValueError:
        return otherwise


def _level_without_us(record: logging.LogRecord) -> int:
    """The level that decides about a record where nobody has opened log files."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if logger.level and not (logger is _TOP and logger.level == _OURS):
            return logger.level
        logger = logger.parent
    return logging.NOTSET
