"""The lock that the processes of one database pass on, and the page on which they say who has it and who is next."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol
from weakref import finalize

from flask_dbopt.lease import file_name, open_folder, try_lock

#: Seconds a process may be overtaken by the others, and seconds it may pass the lock on among its own threads.
_STINT = 0.05
#: Seconds between tries for the processes' lock, for whoever is next and for the others.
_TRY_NEXT, _TRY = 0.0001, 0.0005
#: Seconds for which it counts that a process said it is next.
_FRESH = 0.01
#: Seconds between looks whether the lock files are still there.
_CHECK_AFTER = 1.0
#: The shared page: when somebody was next (by the system's monotonic clock); who has the lock, process, since, name.
_NEXT = struct.Struct("=d")
_SIGNATURE = struct.Struct("=qd100s")
_PAGE = _NEXT.size + _SIGNATURE.size


class Turn(Protocol):
    """One writer's turn, as far as the processes' lock is concerned."""

    @property
    def who(self) -> str: ...
    @property
    def identity(self) -> Hashable:
        """The file."""
        ...


class Crossing:
    """The lock between the processes: a ``flock``, and another for the process that is next.

    Who is next says so on a shared page, and nobody overtakes it: a process that comes back at once would always find
    the lock free before one that sleeps. The locks lie on open files, which a forked child shares: it only closes them.
    A killed process frees both, and what it said grows stale.
    """

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._clock = clock
        self._files: _Files | None = None
        self._held = False
        self._since = 0.0
        self.problem = ""
        self.queued = 0
        """How often somebody had to wait for another process."""

    def take(self, turn: Turn, wait: Callable[[], float], asked: float) -> bool:
        """Whether it was got in time; also where there can be none."""
        files = self._files
        if self._held and files is not None and files.identity == turn.identity:
            files.sign(turn.who)  # passed on by the thread before
            return True
        self.give_back()
        now = self._clock()
        if files is None or files.identity != turn.identity or now - files.checked > _CHECK_AFTER:
            files = self._open(turn.identity, now)
            if files is None:
                return True
        if files.is_somebody_next(now) or not try_lock(files.lane, fcntl.LOCK_EX):
            if not self._queue(files, wait() - (now - asked), now):
                return False
            now = self._clock()
        self._held, self._since = True, now
        files.sign(turn.who)
        return True

    def _queue(self, files: _Files, limit: float, began: float) -> bool:
        """Try again and again, and after a while as the one that is next."""
        is_next = False
        spent = 0.0
        self.queued += 1
        try:
            while spent < limit:
                pause = _TRY_NEXT if is_next else _TRY
                time.sleep(min(pause, limit - spent))
                now = self._clock()
                spent = max(spent + pause, now - began)
                if not is_next and spent > _STINT:
                    is_next = try_lock(files.next, fcntl.LOCK_EX)
                if is_next:
                    files.say_next(now)
                elif files.is_somebody_next(now):
                    continue
                if try_lock(files.lane, fcntl.LOCK_EX):
                    return True
            return False
        finally:
            if is_next:
                files.say_next(0.0)
                fcntl.flock(files.next, fcntl.LOCK_UN)

    def may_pass_to(self, turn: Turn) -> bool:
        """Whether another thread may have it next, or other processes must get their chance."""
        files = self._files
        if not self._held or files is None or files.identity != turn.identity:
            return False
        now = self._clock()
        return now - self._since < _STINT or not files.is_somebody_next(now)

    def give_back(self) -> None:
        """Let the next process have it; harmless when it is not held."""
        if self._held and self._files is not None:
            fcntl.flock(self._files.lane, fcntl.LOCK_UN)
        self._held = False

    def abandon(self) -> None:
        """In a forked child: close, never unlock."""
        self._held = False
        self.close()

    def close(self) -> None:
        """Give it back and let go of the files."""
        self.give_back()
        files, self._files = self._files, None
        if files is not None:
            files.close()

    def holder(self) -> tuple[str, int, float] | None:
        """Who has it in another process (name, process, seconds), as the shared page says."""
        return None if self._files is None else self._files.signature()

    def _open(self, identity: Hashable, now: float) -> _Files | None:
        files = self._files
        if files is not None:
            if files.identity == identity and files.are_there():
                files.checked = now
                return files
            self.close()
        try:
            files = _Files(self._directory, identity)
        except OSError as error:
            self.problem = f"{self._directory}: {error.strerror or error}"
            return None
        self.problem = ""
        files.checked = now
        self._files = files
        return files


class _Files:
    """The open lock files of one database, and the page that its processes share."""

    def __init__(self, directory: Path, identity: Hashable) -> None:
        """Raises OSError when the folder cannot be used."""
        self.identity = identity
        self.checked = 0.0
        with ExitStack() as opened:
            folder = open_folder(directory)
            opened.callback(os.close, folder)

            def open_file(kind: str) -> int:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                return os.open(file_name(f"file {identity}", kind), flags, 0o600, dir_fd=folder)

            with ExitStack() as kept:
                self.lane = open_file("lane")
                kept.callback(os.close, self.lane)
                self.next = open_file("next")
                kept.callback(os.close, self.next)
                # On a description of its own, since the map keeps one, also in a forked child.
                page = open_file("next")
                opened.callback(os.close, page)
                if os.fstat(page).st_size < _PAGE:  # written, not stretched: a hole could not be filled on a full disk
                    os.pwrite(page, bytes(_PAGE), 0)
                self._page = mmap.mmap(page, _PAGE)
                self._finish = finalize(self, _close, self._page, kept.pop_all())

    def are_there(self) -> bool:
        """Whether others would find the same files; a cleaner of temporary files takes old ones away."""
        for fd in (self.lane, self.next):
            if not os.fstat(fd).st_nlink:
                return False
            os.utime(fd)
        return True

    def is_somebody_next(self, now: float) -> bool:
        """Whether a process in line said so a moment ago."""
        said: float = _NEXT.unpack_from(self._page, 0)[0]
        return said != 0.0 and -_FRESH < now - said < _FRESH

    def say_next(self, now: float) -> None:
        """Ask the others to let us go first; 0.0 takes it back."""
        _NEXT.pack_into(self._page, 0, now)

    def sign(self, who: str) -> None:
        """Say who has it, for others to tell. It is not protected: a torn one is wrong in a message."""
        _SIGNATURE.pack_into(self._page, _NEXT.size, os.getpid(), time.time(), who.encode(errors="replace"))

    def signature(self) -> tuple[str, int, float] | None:
        """What ``sign`` said last, and how long ago."""
        pid, since, who = _SIGNATURE.unpack_from(self._page, _NEXT.size)
        return (who.rstrip(b"\0").decode(errors="ignore"), pid, max(0.0, time.time() - since)) if pid else None

    def close(self) -> None:
        self._finish()


def _close(page: mmap.mmap, files: ExitStack) -> None:
    page.close()
    files.close()
