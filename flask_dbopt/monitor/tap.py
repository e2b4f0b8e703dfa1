"""Hears every statement that is recorded for a while, for tests. Costs nothing while nobody listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flask_dbopt.monitor.intake import Intake
from flask_dbopt.monitor.request import CURRENT, Record


class Tap:
    """What ran since ``open``: in requests that ended, in this context's own, and outside any, in every thread.

    It listens where records are folded, away from the requests' path, and folds what waits when it is asked.
    """

    def __init__(self, intake: Intake, *, clock: Callable[[], float] = time.time) -> None:
        self._intake = intake
        self._clock = clock
        self._heard: list[tuple[Record, str]] = []
        self._since = 0.0

    def open(self) -> None:
        """Hear from now on."""
        with self._intake.lock:
            self._intake.fold(self._clock())
            self._since = time.perf_counter()
            self._intake.taps.append(self._hear)
        self._intake.tell()

    def close(self) -> list[tuple[Record, str]]:
        """Hear no more: everything that began meanwhile."""
        found = self.heard()
        with self._intake.lock:
            if self._hear in self._intake.taps:  # not after a fork: the child has none
                self._intake.taps.remove(self._hear)
        return found

    def heard(self) -> list[tuple[Record, str]]:
        """Each run so far with the endpoint that it was for, the first first."""
        with self._intake.lock:
            self._intake.fold(self._clock())
            found = [*self._heard, *self._of_this_context()]
        self._intake.tell()
        return sorted((each for each in found if each[0][5] >= self._since), key=lambda each: each[0][5])

    def _hear(self, records: Iterable[Record], endpoint: str) -> None:
        self._heard += [(record, endpoint) for record in records]

    def _of_this_context(self) -> list[tuple[Record, str]]:
        """What requests ran that have not ended: a test client that is used in a ``with`` keeps its last one open."""
        found: list[tuple[Record, str]] = []
        cost = CURRENT.get()
        while cost is not None:
            if cost.recorder is self._intake.recorder:
                found += [(record, cost.endpoint) for record in cost.records]
            cost = cost.outer
        return found
