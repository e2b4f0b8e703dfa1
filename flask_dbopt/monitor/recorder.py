"""The hot path: note that a statement ran, and nothing else. Whatever costs time happens in the sweep."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from flask_dbopt.monitor.places import place, stack
from flask_dbopt.monitor.request import CURRENT, OUTSIDE, Record, RequestCost, Sample

#: Records that may wait for the sweep; past that, whoever adds one folds a batch of them on the spot.
PENDING = 10_000
#: Records of one request that are kept as they are before the older ones are handed on as a part of it.
PER_REQUEST = 2_000
#: Of those, the newest stay with the request: their cursors may still be fetching.
KEPT_BACK = 100
#: Statements whose place in the app is known, the longest of them, and how many are looked for in a second.
PLACES, LONGEST_TEXT, LOOKS = 4_096, 10_000, 200
#: Slow runs that wait for the sweep; the newest are kept.
SAMPLES = 100
#: Requests inside one another that are believed to be so.
NESTED = 8


def _nothing() -> None:
    """Nobody folds."""


class Recorder:
    """Collects records of statements, by request if there is one. Threads share it: an append is atomic."""

    __slots__ = (
        "_look_again_at",
        "_looks",
        "_spilling",
        "_timer",
        "finished",
        "full",
        "loose",
        "pending",
        "places",
        "record",
        "slow",
    )

    def __init__(self, *, full: Callable[[], None] = _nothing, timer: Callable[[], float] = time.perf_counter) -> None:
        self.loose: deque[Record] = deque()
        """Records run outside any request."""
        self.finished: deque[RequestCost] = deque()
        self.pending = 0
        """Records in ``finished``, give or take what threads race for."""
        self.full = full
        """Called on the caller's thread when more waits than ``PENDING``."""
        self.places: dict[str, str] = {}
        """Where in the app each statement's text was first seen: ``file:line``."""
        self.slow: deque[Sample] = deque(maxlen=SAMPLES)
        self._timer = timer
        self._spilling = threading.Lock()
        self._looks, self._look_again_at = 0, float("-inf")
        self.record = self.recording("default")

    def recording(self, database: str) -> Callable[..., Record]:
        """What notes a run of a statement in that database: called with the first six parts of a Record.

        The Record that it returns may still be added to while the caller fetches.
        """
        current, loose = CURRENT.get, self.loose

        def record(
            sql: str, seconds: float, rows: int, error: str | None, cached: bool, started: float = 0.0
        ) -> Record:
            run: Record = [sql, seconds, rows, error, cached, started, database]
            cost = current()
            if cost is None or cost.recorder is not self:
                loose.append(run)
                if len(loose) >= PENDING:
                    self.full()
                return run
            records = cost.records
            records.append(run)
            if len(records) >= PER_REQUEST:
                self._spill(cost)
            return run

        return record

    def sight(self, sql: str) -> None:
        """Note where in the app a statement comes from, at its first run.

        To look costs 10 µs. An app that makes a new text for each run is looked at now and then only.
        """
        now = self._timer()
        if now >= self._look_again_at:
            self._looks, self._look_again_at = LOOKS, now + 1.0
        if self._looks <= 0 or len(sql) > LONGEST_TEXT:
            return
        self._looks -= 1
        if len(self.places) >= PLACES:
            self.places.clear()
        self.places[sql] = place()

    def sample(self, record: Record, parameters: object | None) -> None:
        """Keep what led to a slow run: a walk over all frames, so only for those."""
        cost = CURRENT.get()
        endpoint = cost.endpoint if cost is not None and cost.recorder is self else OUTSIDE
        self.slow.append(Sample(record, endpoint, stack(), parameters))

    def begin(self, endpoint: str, method: str) -> RequestCost:
        """A request starts in this context, perhaps in the midst of another, which then waits."""
        cost = RequestCost(endpoint, method, self._timer(), self)
        if (outer := CURRENT.get()) is not None:
            cost.outer = outer
            self._end_forgotten(outer)
        CURRENT.set(cost)
        return cost

    def end(self, cost: RequestCost, status: int | None) -> None:
        """The request is over (``status`` None: it raised). A second call does nothing."""
        if cost.ended is not None:
            return
        cost.ended = self._timer()
        cost.status = status
        cost.recorder = None
        if CURRENT.get() is cost:
            outer = cost.outer
            while outer is not None and outer.ended is not None:
                outer = outer.outer
            CURRENT.set(outer)
        cost.outer = None
        self.pending += len(cost.records) + 1
        self.finished.append(cost)
        if self.pending >= PENDING:
            self.full()

    def abandon(self) -> None:
        """After a fork, in the child: what was collected so far is the parent's to count."""
        self.loose.clear()
        self.finished.clear()
        self.slow.clear()
        self.pending = 0
        self._spilling = threading.Lock()
        CURRENT.set(None)

    def _end_forgotten(self, cost: RequestCost) -> None:
        """Requests whose end nobody told (an app's teardown raised) pile up like nested ones: end the first."""
        depth = 1
        while cost.outer is not None:
            depth += 1
            inner, cost = cost, cost.outer
            if depth > NESTED:
                inner.outer = None
                if cost.recorder is self:
                    self.end(cost, None)
                return

    def _spill(self, cost: RequestCost) -> None:
        """Keep an endless request's memory bounded: all but its newest records are folded ahead of it."""
        with self._spilling:
            records = cost.records
            count = len(records) - KEPT_BACK
            if count < KEPT_BACK:
                return
            part = RequestCost(cost.endpoint, cost.method, cost.started, None)
            part.records = records[:count]
            del records[:count]
        self.pending += count
        self.finished.append(part)
        if self.pending >= PENDING:
            self.full()
