"""The lane of a database's writers: a fair line inside the process, and a lock that the processes pass on.

SQLite has one writer at a time, and whoever finds it busy sleeps and tries again: the unlucky wait very long. Here
writers stand in line, and SQLite's own lock is free when their turn comes. It is an order among those who keep it,
no protection: that stays SQLite's. So where no lock file can be had, writers go on without.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from weakref import finalize, ref

from flask_dbopt.errors import WriterTimeout
from flask_dbopt.lease import default_directory, file_name, open_folder, try_lock

#: Seconds a writer in line may be overtaken; handing over at once would make each turn wait for a thread switch.
#: Measured with 4 x 4 writers on two busy cores: at 1 ms 0.7 times the commits of 10 ms, and nobody waits less.
_PATIENCE = 0.01
#: Seconds between looks whether the writer in front is gone for good.
_LOOK_AGAIN = 0.05
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


class Turn:
    """One writer's turn, from ``enter`` to ``leave``."""

    __slots__ = ("connection", "granted", "identity", "since", "thread", "who")

    def __init__(self, who: str, identity: Hashable, connection: object, since: float) -> None:
        self.who = who
        self.identity = identity
        self.connection: ref[Any] | None = None if connection is None else ref(connection)
        self.since = since
        self.thread = threading.get_ident()
        self.granted: threading.Lock | None = None

    def is_over(self) -> bool:
        """Whether its connection is gone, so that nobody will end it."""
        return self.connection is not None and self.connection() is None


class Lane:
    """The writers of one database in this process. Threads share it; a fork calls for ``abandon()``."""

    def __init__(
        self,
        name: str,
        directory: Path | None = None,
        *,
        look: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``look`` is called now and then while somebody waits: it may end turns that were forgotten."""
        self.name = name
        self.clock = clock
        self._look = look
        self._crossing = Crossing(default_directory() if directory is None else directory, clock)
        self._start_empty()

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._line: deque[Turn] = deque()
        self._turn: Turn | None = None

    @property
    def turn(self) -> Turn | None:
        """Whose turn it is in this process; None when nobody's."""
        return self._turn

    @property
    def problem(self) -> str:
        """Why the processes cannot take turns, such as an unusable folder; empty while all is well."""
        return self._crossing.problem

    def enter(self, who: str, identity: Hashable, wait: Callable[[], float], connection: object = None) -> Turn:
        """Stand in line, and return when it is our turn among all processes' writers.

        ``identity`` is the file, ``wait()`` the longest wait in seconds; a turn ends with its ``connection``, should
        that vanish. Raises WriterTimeout, at once where this very thread is in front.
        """
        asked = self.clock()
        turn = Turn(who, identity, connection, asked)
        with self._lock:
            is_ours = self._turn is None and not (self._line and asked - self._line[0].since > _PATIENCE)
            if is_ours:
                self._turn = turn
            else:
                turn.granted = threading.Lock()
                turn.granted.acquire()
                self._line.append(turn)
        try:
            if not is_ours:
                self._stand(turn, wait)
            is_taken = self._crossing.take(turn, wait, asked)
        except BaseException:
            self.leave(turn)
            raise
        if not is_taken:
            self.leave(turn)
            raise _locked(wait(), self._crossing.holder())
        turn.since = self.clock()
        return turn

    def leave(self, turn: Turn) -> None:
        """End a turn, also one that has not begun; one that is not the present one is over already."""
        with self._lock:
            if self._turn is not turn:
                if turn.granted is not None and turn in self._line:
                    self._line.remove(turn)
                    if self._turn is None:
                        self._wake(None)
                return
            heir = self._line[0] if self._line and self.clock() - self._line[0].since > _PATIENCE else None
            if heir is None or not self._crossing.may_pass_to(heir):
                self._crossing.give_back()
            self._wake(heir)

    def _wake(self, heir: Turn | None) -> None:
        """Hand the turn to ``heir``, or let the first in line take it, should it still be free by then."""
        self._turn = heir
        if heir is not None:
            self._line.popleft()
        elif self._line:
            heir = self._line[0]
        if heir is not None and heir.granted is not None and heir.granted.locked():
            heir.granted.release()

    def abandon(self) -> None:
        """After a fork, in the child: what is held is the parent's, and stays so when the parent ends."""
        self._crossing.abandon()
        self._start_empty()

    def close(self) -> None:
        """Let go of the lock files, once nobody writes; a later turn opens them again."""
        with self._lock:
            if self._turn is None:
                self._crossing.close()

    def _stand(self, turn: Turn, wait: Callable[[], float]) -> None:
        """Wait in line. Counts the time asked to wait as well as the clock's: a still clock must end too."""
        assert turn.granted is not None  # noqa: S101
        limit = wait()
        spent = 0.0
        while True:
            pause = min(_LOOK_AGAIN, max(0.0, limit - spent))
            is_woken = turn.granted.acquire(timeout=pause)
            if not is_woken:
                spent += pause
                self._look()
            with self._lock:
                front = self._turn
                if front is turn:
                    return
                if front is not None and front.is_over():
                    self._crossing.give_back()
                    front = self._turn = None
                if front is None and self._line[0] is turn:
                    self._line.popleft()
                    self._turn = turn
                    return
                spent = max(spent, self.clock() - turn.since)
                is_own = front is not None and front.thread == turn.thread
                if is_own or spent >= limit:
                    raise _own(front) if is_own and front else _locked(limit, self._describe(front))

    def _describe(self, turn: Turn | None) -> tuple[str, int, float] | None:
        return None if turn is None else (turn.who, os.getpid(), self.clock() - turn.since)


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
        _SIGNATURE.pack_into(self._page, _NEXT.size, os.getpid(), time.time(), who.encode())

    def signature(self) -> tuple[str, int, float] | None:
        """What ``sign`` said last, and how long ago."""
        pid, since, who = _SIGNATURE.unpack_from(self._page, _NEXT.size)
        return (who.rstrip(b"\0").decode(errors="ignore"), pid, max(0.0, time.time() - since)) if pid else None

    def close(self) -> None:
        self._finish()


def _close(page: mmap.mmap, files: ExitStack) -> None:
    page.close()
    files.close()


def _locked(waited: float, holder: tuple[str, int, float] | None) -> WriterTimeout:
    whose = "" if holder is None else "; {} (process {}) has written for {:.1f} s".format(*holder)
    return WriterTimeout(
        f"database is locked: no turn to write within {waited:g} s{whose}",
        hint="commit sooner there, or raise DBOPT_SQLITE_BUSY_TIMEOUT",
    )


def _own(front: Turn) -> WriterTimeout:
    return WriterTimeout(
        f"database is locked: {front.who} writes already, on another connection of this very thread",
        hint="commit or close that one first; waiting would never end",
    )
