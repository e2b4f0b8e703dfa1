"""How slow statements are run: asked of their database in the sweep, a few at a time, never while a request waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from flask_dbopt.monitor.intake import Intake
from flask_dbopt.monitor.remarkable import SeenPlan, shortened
from flask_dbopt.monitor.sums import identify

log = logging.getLogger("flask_dbopt.monitoring")

#: ``explain(database, statement)``: the plan in lines as people read them, without running anything; () where none.
Explain = Callable[[str, str], tuple[str, ...]]

#: Plans that are asked for in one sweep, the seconds after which no further one is, and those until the same again.
PLANS_A_SWEEP, BUDGET, AGAIN = 3, 0.25, 60.0
#: Statements whose last time is remembered.
REMEMBERED = 1_000
#: What databases explain without running it.
_EXPLAINABLE = frozenset(("SELECT", "WITH", "VALUES", "INSERT", "UPDATE", "DELETE", "REPLACE"))


class Plans:
    """Finds the plans of what was slow."""

    def __init__(self, intake: Intake, *, timer: Callable[[], float] = time.monotonic) -> None:
        self.explain: Explain | None = None
        self._intake = intake
        self._timer = timer
        self._asked: dict[str, float] = {}

    def sweep(self, now: float) -> None:
        """Look at a few; what is found is flushed next time."""
        deadline = self._timer() + BUDGET
        for database, query, at in self._next(now):
            lines = self._lines(database, query)
            if lines:
                plan = SeenPlan(identify(query, database), at, now, shortened(lines))
                with self._intake.lock:
                    self._intake.tally.remarks.plans.append(plan)
            if self._timer() >= deadline:
                return

    def _next(self, now: float) -> Iterator[tuple[str, str, float]]:
        waiting = self._intake.unexplained
        asked = 0
        while waiting and asked < PLANS_A_SWEEP:
            database, query, at = waiting.popleft()
            key = identify(query, database)
            first_word = query.partition(" ")[0].upper()
            if first_word not in _EXPLAINABLE or 0 <= now - self._asked.get(key, -AGAIN) < AGAIN:
                continue
            while len(self._asked) >= REMEMBERED:
                del self._asked[next(iter(self._asked))]
            self._asked.pop(key, None)
            self._asked[key] = now
            asked += 1
            yield database, query, at

    def _lines(self, database: str, query: str) -> tuple[str, ...]:
        if self.explain is None:
            return ()
        try:
            return self.explain(database, query)
        except Exception as error:  # noqa: BLE001 - a database that cannot be asked now is no fault of the monitor's
            log.debug("a slow statement of %s was not explained: %s", database, error)
            return ()
