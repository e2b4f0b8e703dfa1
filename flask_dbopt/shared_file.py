"""A file that many processes append to, one at a time: no line is torn, and none is lost while it is rotated."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flask_dbopt import forks

_PAUSE = 0.0005
"""Seconds between two looks at a lock that somebody else has."""


@dataclass(frozen=True, slots=True)
class Grip:
    """The file while it is held: nobody else appends to it, and nobody renames it."""

    fd: int
    size: int
    inode: int

    def read(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` on."""
        return os.pread(self.fd, size, offset)

    @property
    def is_whole(self) -> bool:
        """Whether it ends with a whole line: a process that is killed can leave half of one."""
        return self.size == 0 or self.read(1, self.size - 1) == b"\n"

    def append(self, data: bytes, *, sync: bool = False) -> None:
        """Write at the end, in one piece. OSError when not all of it was written: then a piece may be there."""
        _write(self.fd, data)
        if sync:
            os.fsync(self.fd)


class SharedFile:
    """One file by its path, for every thread and process that appends to it through one of these.

    Who has the lock on the open file, and sees that the path still leads to it, may append or rename it. So a
    rotation needs no second lock file, and everybody else finds the new file by himself.
    """

    def __init__(self, path: Path, *, mode: int = 0o640, patience: float = 0.25) -> None:
        """``patience``: seconds that one waits for the lock; somebody may be stopped while he has it."""
        self.path = path
        self._mode = mode
        self._patience = patience
        self._fd: int | None = None
        self.abandon()
        forks.watch(self)

    @contextmanager
    def held(self) -> Iterator[Grip]:
        """Hold the file, made if it is missing, folder and all. OSError: TimeoutError where others keep it."""
        deadline = time.monotonic() + self._patience
        if not self._turn.acquire(timeout=self._patience):
            raise self._busy()
        try:
            fd = self._locked(deadline)
            try:
                about = os.fstat(fd)
                yield Grip(fd, about.st_size, about.st_ino)
            finally:
                # Not only close: a child forked a moment ago may share the open file.
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            self._turn.release()

    def append_unheld(self, data: bytes) -> None:
        """Append in one piece although somebody else holds the file; it may have just been renamed."""
        fd = self._opened()
        try:
            _write(fd, data)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of the file; it is opened again when it is needed."""
        if self._turn.acquire(timeout=self._patience):
            try:
                self._close()
            finally:
                self._turn.release()

    def let_go(self) -> None:
        """Before a fork, in the parent: nothing has to happen, the child closes what it inherits."""

    def abandon(self) -> None:
        """After a fork, in the child: a lock of its own, and its own open file at the next use."""
        self._turn = threading.Lock()
        self._close()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        """``close`` is kept here: at the interpreter's end the module's own names may be gone."""
        fd, self._fd = self._fd, None
        if fd is not None:
            close(fd)

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                os.close(fd)

    def _locked(self, deadline: float) -> int:
        """The file that the path leads to now, opened and locked."""
        while True:
            fd = self._fd = self._opened() if self._fd is None else self._fd
            while not _lock(fd):
                if time.monotonic() >= deadline:
                    raise self._busy()
                time.sleep(_PAUSE)
            if self._is_there(fd):
                return fd
            self._close()  # which unlocks it too: it was renamed or removed

    def _is_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat())
        except FileNotFoundError:
            return False

    def _opened(self) -> int:
        try:
            return self._made_or_found()
        except FileNotFoundError:
            make_folder(self.path.parent)
            return self._made_or_found()

    def _made_or_found(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags | os.O_EXCL, self._mode)
        except FileExistsError:
            return os.open(self.path, flags, self._mode)
        if os.geteuid() == 0:
            _give_to_the_owner_of(self.path.parent, fd)
        return fd

    def _busy(self) -> TimeoutError:
        return TimeoutError(f"another process has held {self.path} for {self._patience:g} s")


def make_folder(folder: Path) -> None:
    """The folder, with a .gitignore of its own: what we write there does not belong into a repository."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            (folder / ".gitignore").write_text("*\n")
        if os.geteuid() == 0:
            for each in reversed(missing):
                _give_to_the_owner_of(each.parent, each)


def _give_to_the_owner_of(folder: Path, made: int | Path) -> None:
    """What root made, such as by a command under sudo, must not shut out the app's own user."""
    about = folder.stat()
    with suppress(OSError):  # a file system that knows no owners
        os.chown(made, about.st_uid, about.st_gid, follow_symlinks=isinstance(made, int))


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    if written < len(data):
        os.write(fd, data[written:])  # where the disk is full, this says so


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
