"""The lost-update watch: which requests wrote a table that another commit had changed since they read it.

It costs requests nothing, since records tell all of it afterwards. Let a request be done with reading a table at one
moment, and be the one writer from another moment on, before it writes that table. If somebody else, who wrote the
table as well, called COMMIT in between, then what was read was no longer true when it was written: whoever calls COMMIT
has the database for itself, so it had it before the request got it. These moments are compared by one clock, the
machine's, and each is taken on its cautious side. So whatever is found was so; what is not found may have been so too.

It is about tables. That another row was changed there, or that the app's statement would have noticed, it cannot tell.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf

from flask_dbopt.monitor.request import Record
from flask_dbopt.monitor.transactions import COMMITS, Reader, Sight, Stale, text_of

#: Seconds for which a commit is remembered, and how many of one table.
KEPT, MOST_COMMITS = 60.0, 2_000
#: Seconds that a request's writes wait for other workers, which tell of their commits every two, and how many do so.
WAIT, MOST_WAITING = 8.0, 1_000
#: Records that are gone through at a time; what comes beyond them is left out.
MOST_RECORDS = 20_000
#: Seconds after which statements are looked at anew, since the schema may have changed.
LOOK_AGAIN = 60.0
#: Commits that are told to the other workers at a time, the newest ones.
MOST_TOLD = 500

#: Nobody's number: the work of another process.
_FOREIGN = 0


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that changed a table, as other workers are told of it."""

    database: str
    table: str
    at: float
    """When COMMIT was called, by ``time.perf_counter``."""
    endpoint: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """A request read a table, another commit changed it, and then the request wrote it."""

    database: str
    table: str
    endpoint: str
    read: str
    """The statement that read it …"""
    write: str
    """… and the one that wrote it."""
    other: str
    """The endpoint that changed it; "" for work outside requests."""
    at: float
    """When it was written, by ``time.perf_counter``."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A stale table that was written, until the others' commits are known."""

    database: str
    stale: Stale
    endpoint: str
    locked_at: float
    work: int
    until: float


class Watch:
    """What one worker watches. The caller does the locking, and hands in what other workers tell."""

    def __init__(self, timer: Callable[[], float] = time.perf_counter) -> None:
        self.sight: Sight | None = None
        """How statements are seen through; without it nothing is watched."""
        self._timer = timer
        self._start_anew()

    def _start_anew(self) -> None:
        self._reader: Reader | None = None
        self._look_again_at = -inf
        self._offered: list[tuple[Sequence[Record], str, bool]] = []
        self._records = 0
        self._works = _FOREIGN
        self._commits: dict[tuple[str, str], list[tuple[float, int, str]]] = {}
        self._waiting: deque[_Waiting] = deque(maxlen=MOST_WAITING)
        self._told: deque[Commit] = deque(maxlen=MOST_TOLD)
        self._has_news = False

    def abandon(self) -> None:
        """After a fork, in the child: what was seen is the parent's to tell."""
        self._start_anew()

    @property
    def is_waiting(self) -> bool:
        """Whether what other workers tell could make a difference."""
        return bool(self._waiting)

    def offer(self, records: Sequence[Record], endpoint: str, *, is_request: bool = True) -> None:
        """What one request ran, or what ran outside of requests. Gone through later, if there is a COMMIT in it."""
        if self.sight is None or COMMITS.isdisjoint(map(text_of, records)):
            return
        if self._records + len(records) <= MOST_RECORDS:
            if not is_request:
                records = [list(record) for record in records]  # whether a cursor holds them is yet to be seen
            self._records += len(records)
            self._offered.append((records, endpoint, is_request))

    def look(self) -> None:
        """Go through what was offered."""
        offered, self._offered, self._records = self._offered, [], 0
        if not offered or self.sight is None:
            return
        now = self._timer()
        if self._reader is None:
            self._reader = Reader(self.sight)
        if now >= self._look_again_at:
            self._reader.forget()
            self._look_again_at = now + LOOK_AGAIN
        for records, endpoint, is_request in offered:
            self._works += 1
            for done in self._reader.transactions(records):
                for table in done.tables:
                    self._remember(Commit(done.database, table, done.committed_at, endpoint), self._works)
                if is_request:
                    self._waiting.extend(
                        _Waiting(done.database, stale, endpoint, done.locked_at, self._works, now + WAIT)
                        for stale in done.stale
                        if stale.read_at < done.locked_at
                    )

    def news(self) -> list[Commit] | None:
        """The latest commits of this worker, to tell the others; None when there is nothing new."""
        if not self._has_news:
            return None
        self._has_news = False
        oldest = self._timer() - KEPT
        while self._told and self._told[0].at < oldest:
            self._told.popleft()
        return list(self._told)

    def hear(self, commits: Iterable[Commit]) -> None:
        """What another worker told; again is no harm."""
        for commit in commits:
            self._insert(commit, _FOREIGN)

    def judge(self) -> list[Overlap]:
        """What was found since the last time."""
        self.look()
        found: list[Overlap] = []
        now = self._timer()
        for _ in range(len(self._waiting)):
            one = self._waiting.popleft()
            other = self._changed_by(one)
            if other is not None:
                stale = one.stale
                found.append(
                    Overlap(one.database, stale.table, one.endpoint, stale.read, stale.write, other, one.locked_at)
                )
            elif now < one.until:
                self._waiting.append(one)
        self._forget_before(now - KEPT)
        return found

    def _remember(self, commit: Commit, work: int) -> None:
        self._insert(commit, work)
        self._told.append(commit)
        self._has_news = True

    def _insert(self, commit: Commit, work: int) -> None:
        known = self._commits.setdefault((commit.database, commit.table), [])
        entry = (commit.at, work, commit.endpoint)
        place = bisect_right(known, entry)
        if not place or known[place - 1] != entry:
            known.insert(place, entry)
            if len(known) > MOST_COMMITS:
                del known[0]

    def _changed_by(self, one: _Waiting) -> str | None:
        """The endpoint of another work's commit between reading and writing, if there was one."""
        known = self._commits.get((one.database, one.stale.table), ())
        for number in range(bisect_right(known, (one.stale.read_at, inf, "")), len(known)):
            at, work, endpoint = known[number]
            if at >= one.locked_at:
                return None
            if work != one.work:
                return endpoint
        return None

    def _forget_before(self, oldest: float) -> None:
        for key, known in list(self._commits.items()):
            if known[0][0] < oldest:
                del known[: bisect_right(known, (oldest, _FOREIGN, ""))]
                if not known:
                    del self._commits[key]
