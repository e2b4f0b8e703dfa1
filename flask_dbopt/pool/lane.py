"""The lane of a database's writers: a fair line inside the process, and a lock that the processes pass on.

SQLite has one writer at a time, and whoever finds it busy sleeps and tries again: the unlucky wait very long. Here
writers stand in line, and SQLite's own lock is free when their turn comes. It is an order among those who keep it,
no protection: that stays SQLite's. So where no lock file can be had, writers go on without.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import ref

from flask_dbopt.errors import WriterTimeout
from flask_dbopt.lease import default_directory, file_name, open_folder, try_lock

#: Seconds a writer in line may be overtaken; handing over at once would make each turn wait for a thread switch.
_PATIENCE = 0.001
#: Seconds between looks whether the writer in front is gone for good.
_LOOK_AGAIN = 0.05
#: Seconds a process may be overtaken by the others, and seconds it may pass the lock on among its own threads.
_STINT = 0.005
#: Seconds between tries for the processes' lock, for whoever is next and for the others.
_TRY_NEXT, _TRY = 0.0001, 0.0005
#: Bytes of a lock file that say who has it.
_SIGNATURE = 200


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
        if not is_ours:
            self._stand(turn, wait)
        try:
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
        """End a turn; one that is not the present one is over already."""
        with self._lock:
            if self._turn is not turn:
                return
            heir = self._line[0] if self._line and self.clock() - self._line[0].since > _PATIENCE else None
            if heir is None or not self._crossing.may_pass_to(heir):
                self._crossing.give_back()
            self._turn = heir
            if heir is not None:
                self._line.popleft()
                assert heir.granted is not None  # noqa: S101  # whoever stands in line has one
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
        pause = _PATIENCE
        spent = 0.0
        while not turn.granted.acquire(timeout=min(pause, max(0.0, limit - spent))):
            spent = max(spent + min(pause, _LOOK_AGAIN), self.clock() - turn.since)
            if pause == _LOOK_AGAIN:
                self._look()
            with self._lock:
                if self._turn is turn:  # granted this moment
                    return
                front = self._turn
                if front is not None and front.is_over():
                    self._crossing.give_back()
                    front = self._turn = None
                if front is None and self._line[0] is turn:
                    self._line.popleft()
                    self._turn = turn
                    return
                own = front is not None and front.thread == turn.thread
                if own or spent >= limit:
                    self._line.remove(turn)
                    raise _own(front) if own and front else _locked(limit, self._describe(front))
            pause = _LOOK_AGAIN

    def _describe(self, turn: Turn | None) -> tuple[str, int, float] | None:
        return None if turn is None else (turn.who, os.getpid(), self.clock() - turn.since)


class Crossing:
    """The lock between the processes: a ``flock`` for the one that writes, and one for the one that is next.

    Without the second a process that comes back at once would always find the lock free before those that sleep.
    The locks lie on open files, which a forked child shares: it only closes them. A killed process frees both.
    """

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._clock = clock
        self._files: tuple[int, int] | None = None
        self._identity: Hashable = None
        self._held = False
        self._since = 0.0
        self.problem = ""

    def take(self, turn: Turn, wait: Callable[[], float], asked: float) -> bool:
        """Whether it was got in time; also where there can be none."""
        if self._held and self._identity == turn.identity:  # passed on by the thread before
            self._sign(turn)
            return True
        self.give_back()
        files = self._open(turn.identity)
        if files is None:
            return True
        own, next_ = files
        is_next = False
        began = self._clock()
        spent = 0.0
        limit = None
        try:
            while True:
                if is_next or try_lock(next_, fcntl.LOCK_SH):
                    if try_lock(own, fcntl.LOCK_EX):
                        break
                    if not is_next:
                        fcntl.flock(next_, fcntl.LOCK_UN)
                pause = _TRY_NEXT if is_next else _TRY
                spent = max(spent + pause, self._clock() - began)
                if limit is None:
                    limit = wait()
                if spent + (began - asked) >= limit:
                    return False
                if spent > _STINT and not is_next:
                    is_next = try_lock(next_, fcntl.LOCK_EX)
                time.sleep(pause)
        finally:
            fcntl.flock(next_, fcntl.LOCK_UN)
        self._held, self._since = True, self._clock()
        self._sign(turn)
        return True

    def may_pass_to(self, turn: Turn) -> bool:
        """Whether another thread may have it next, or other processes must get their chance."""
        return self._held and self._identity == turn.identity and self._clock() - self._since < _STINT

    def give_back(self) -> None:
        """Let the next process have it; harmless when it is not held."""
        if self._held and self._files is not None:
            fcntl.flock(self._files[0], fcntl.LOCK_UN)
        self._held = False

    def abandon(self) -> None:
        """In a forked child: close, never unlock."""
        self._held = False
        self.close()

    def close(self) -> None:
        """Give it back and let go of the files."""
        self.give_back()
        files, self._files = self._files, None
        for fd in files or ():
            with suppress(OSError):
                os.close(fd)

    def holder(self) -> tuple[str, int, float] | None:
        """Who has it in another process (name, process, seconds), as its file says."""
        if self._files is None:
            return None
        told = os.pread(self._files[0], _SIGNATURE, 0).decode(errors="replace").rstrip().split(" ", 2)
        try:
            return told[2], int(told[0]), max(0.0, time.time() - float(told[1]))
        except (ValueError, IndexError):  # nobody has signed it yet
            return None

    def __del__(self) -> None:
        """Closing frees what is held; nothing else is needed."""
        for fd in getattr(self, "_files", None) or ():
            with suppress(OSError):
                os.close(fd)

    def _open(self, identity: Hashable) -> tuple[int, int] | None:
        files = self._files
        if files is not None:
            # A cleaner of temporary files may have taken them away: then others lock new ones.
            if self._identity == identity and os.fstat(files[0]).st_nlink and os.fstat(files[1]).st_nlink:
                return files
            self.close()
        opened: list[int] = []
        try:
            folder = open_folder(self._directory)
            try:
                for kind in ("lane", "next"):
                    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                    opened.append(os.open(file_name(f"file {identity}", kind), flags, 0o600, dir_fd=folder))
            finally:
                os.close(folder)
        except OSError as error:
            for fd in opened:
                os.close(fd)
            self.problem = f"{self._directory}: {error.strerror or error}"
            return None
        self.problem = ""
        self._files, self._identity = (opened[0], opened[1]), identity
        return self._files

    def _sign(self, turn: Turn) -> None:
        """Say who has it. Always as many bytes, so that a shorter name leaves nothing of a longer one."""
        if self._files is not None:
            told = f"{os.getpid()} {time.time():.3f} {turn.who}".encode()
            with suppress(OSError):  # a full disk is no reason not to write
                os.pwrite(self._files[0], told[:_SIGNATURE].ljust(_SIGNATURE), 0)


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
