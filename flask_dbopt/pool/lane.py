"""The lane of a database's writers: a fair line inside the process, and a lock that the processes pass on.

SQLite has one writer at a time, and whoever finds it busy sleeps and tries again: the unlucky wait very long. Here
writers stand in line, and SQLite's own lock is free when their turn comes. It is an order among those who keep it,
no protection: that stays SQLite's. So where no lock file can be had, writers go on without.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any
from weakref import ref

from flask_dbopt.errors import WriterTimeout
from flask_dbopt.lease import default_directory
from flask_dbopt.pool.crossing import Crossing
from flask_dbopt.pool.writers import TurnCounts, WriterStats

#: Seconds a writer in line may be overtaken; handing over at once would make each turn wait for a thread switch.
#: Measured with 4 x 4 writers on two busy cores: at 1 ms 0.7 times the commits of 10 ms, and nobody waits less.
_PATIENCE = 0.01
#: Seconds between looks whether the writer in front is gone for good.
_LOOK_AGAIN = 0.05


class Turn:
    """One writer's turn, from ``enter`` to ``leave``."""

    __slots__ = ("connection", "granted", "has_begun", "identity", "since", "thread", "who")

    def __init__(self, who: str, identity: Hashable, connection: object, since: float) -> None:
        self.who = who
        self.identity = identity
        self.connection: ref[Any] | None = None if connection is None else ref(connection)
        self.since = since
        self.thread = threading.get_ident()
        self.granted: threading.Lock | None = None
        self.has_begun = False

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
        self._counts = TurnCounts()
        self._errors = 0

    @property
    def turn(self) -> Turn | None:
        """Whose turn it is in this process; None when nobody's."""
        return self._turn

    @property
    def problem(self) -> str:
        """Why the processes cannot take turns, such as an unusable folder; empty while all is well."""
        return self._crossing.problem

    def stats(self) -> WriterStats:
        """The figures of this process."""
        with self._lock:
            active = self._turn is not None and self._turn.has_begun
            waiting = len(self._line) + (self._turn is not None and not active)
            return self._counts.stats(waiting=waiting, active=int(active), errors=self._errors)

    def counters(self) -> dict[str, float]:
        """What only grows of it, and who wrote for how long."""
        return {**self.stats().counters(), **self._counts.holders()}

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
            queued = self._crossing.queued
            is_taken = self._crossing.take(turn, wait, asked)
        except BaseException as error:
            self._give_up(turn, error)
            raise
        if not is_taken:
            fault = _locked(wait(), self._crossing.holder())
            self._give_up(turn, fault)
            raise fault
        turn.since = self.clock()
        turn.has_begun = True
        self._counts.take(turn.since - asked, has_queued=not is_ours or self._crossing.queued > queued)
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
            if turn.has_begun:
                self._counts.end(turn.who, self.clock() - turn.since)
            heir = self._line[0] if self._line and self.clock() - self._line[0].since > _PATIENCE else None
            if heir is None or not self._crossing.may_pass_to(heir):
                self._crossing.give_back()
            self._wake(heir)

    def _give_up(self, turn: Turn, fault: BaseException) -> None:
        if isinstance(fault, WriterTimeout):
            with self._lock:
                self._errors += 1
        self.leave(turn)

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
