"""The monitor: what the recorder noted, added up across workers and told as figures and alerts."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from flask_dbopt import signals
from flask_dbopt.deeds import deed
from flask_dbopt.monitor import reading
from flask_dbopt.monitor.alerts import Alert
from flask_dbopt.monitor.books import Books
from flask_dbopt.monitor.evaluation import AlertSettings, Evaluation
from flask_dbopt.monitor.figures import EndpointFigures, Point, QueryFigures, Statement, Worker
from flask_dbopt.monitor.intake import Intake, IntakeSettings
from flask_dbopt.monitor.request import OUTSIDE
from flask_dbopt.monitor.tally import (
    Statements,
    Steps,
    Tally,
    merge_statements,
    merge_steps,
)
from flask_dbopt.monitor.totals import Totals

log = logging.getLogger("flask_dbopt.monitoring")

#: A worker lives while its heartbeat is younger than this, in seconds.
LIVING = 10.0
#: Seconds that closing may take.
LAST_FLUSH = 1.0


class MonitorSettings(IntakeSettings, AlertSettings, Protocol):
    """The settings the monitor looks at."""

    @property
    def monitor_retention_days(self) -> float: ...


class _Source:
    """Another room's figures: cumulative counters and gauges of this process."""

    __slots__ = ("counters", "gauges", "last")

    def __init__(self, counters: Callable[[], Mapping[str, float]], gauges: Callable[[], Mapping[str, float]]) -> None:
        self.counters = counters
        self.gauges = gauges
        self.last: Mapping[str, float] = {}


def _none() -> Mapping[str, float]:
    return {}


class Monitor:
    """All figures of one app. ``path`` is the ledger's; None keeps them in memory.

    Only ``recorder`` and ``count`` are met by requests; everything else takes a lock and may touch the disk.
    """

    def __init__(
        self,
        settings: MonitorSettings,
        path: Path | None,
        emit: signals.Emit = signals.silence,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._intake = Intake(settings, emit, clock=clock, timer=timer)
        self.recorder = self._intake.recorder
        self._settings = settings
        self._emit = emit
        self._clock = clock
        self._books = Books(path, keep_seconds=settings.monitor_retention_days * 86_400)
        self._evaluation = Evaluation(settings, self._books, self, emit, clock)
        self._sources: dict[str, _Source] = {}
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._id = uuid.uuid4().hex[:12]
        self._started = self._clock()
        self._swept = False

    # --- what other rooms report ---

    def count(self, name: str, n: float = 1) -> None:
        """Add to a counter that is summed over workers and kept; cheap enough for any thread."""
        self._intake.count(name, n)

    def source(
        self,
        name: str,
        counters: Callable[[], Mapping[str, float]] = _none,
        gauges: Callable[[], Mapping[str, float]] = _none,
    ) -> None:
        """Read these at each flush; their names get ``name.`` in front.

        Counters only grow, from zero; one that fell has started anew. Gauges are shown for living workers.
        """
        self._sources[name] = _Source(counters, gauges)

    # --- the sweep ---

    def sweep(self, now: float) -> None:
        """Fold what was recorded and flush it, with this worker's heartbeat."""
        self._check_process()
        with self._intake.lock:
            self._swept = True
            self._intake.fold(now)
            self._flush(now, heartbeat=True)
        self._intake.tell()

    def flush(self) -> None:
        """Fold and flush now; what others are still fetching waits for a later sweep."""
        now = self._clock()
        self._check_process()
        with self._intake.lock:
            self._intake.fold(now)
            self._flush(now, heartbeat=self._swept)
        self._intake.tell()

    def close(self) -> None:
        """Flush everything and take leave of the other workers, in about a second at most."""
        self._check_process()
        lock = self._intake.lock
        if not lock.acquire(timeout=LAST_FLUSH):
            log.warning("a flush hangs: the last figures of this process are lost")
            return
        try:
            now = self._clock()
            self._intake.fold(now, to_the_end=True)
            deadline = time.monotonic() + LAST_FLUSH
            while self._books.outlive and not self._flush(now, heartbeat=False) and time.monotonic() < deadline:
                pass
            if self._swept:
                self._books.leave(self._id)
                self._swept = False
            self._books.close()
        finally:
            lock.release()
        self._intake.tell()

    def let_go(self) -> None:
        """Before a fork, in the parent: no handle of ours on the ledger."""
        self._books.let_go()

    def abandon(self) -> None:
        """After a fork, in the child: a worker of its own, with nothing recorded and no inherited handle."""
        self._intake.abandon()
        self._books.abandon()
        for source in self._sources.values():
            source.last = {}
        self._start_anew()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            self.abandon()

    def _flush(self, now: float, *, heartbeat: bool) -> bool:
        gauges: dict[str, float] = {}
        for name, source in list(self._sources.items()):
            try:
                counters = dict(source.counters())
                if heartbeat:
                    gauges.update((f"{name}.{key}", value) for key, value in source.gauges().items())
            except Exception:
                log.exception("the figures of %s could not be read", name)
                continue
            for key, value in counters.items():
                before = source.last.get(key, 0)
                grown = value - before if value >= before else value
                if grown:
                    self._intake.tally.count(f"{name}.{key}", grown, now)
            source.last = counters
        worker = Worker(self._id, self._pid, socket.gethostname(), self._started, now, gauges)
        if not heartbeat and not self._intake.tally:
            return True
        if not self._books.flush(self._intake.tally, worker if heartbeat else None, now):
            return False
        self._intake.tally = Tally()
        return True

    # --- figures ---

    def queries(self, sort: str = "total_time", since: float | None = None) -> list[QueryFigures]:
        """Every statement run after ``since`` (to the slot it lies in), the largest by ``sort`` first.

        Counts what this process has not flushed yet. ``sort``: a key of ``reading.SORTS``, else ValueError.
        """
        if sort not in reading.SORTS:
            raise ValueError(f"cannot sort queries by {sort!r}; known: {', '.join(reading.SORTS)}")
        figures = [reading.query_figures(*each) for each in self._statements(since).values()]
        return sorted(figures, key=reading.SORTS[sort], reverse=True)

    def query(self, id: str) -> QueryFigures | None:  # noqa: A002 - the figures' own word
        """One statement over all time; None when nobody ran it."""
        found = self._statements(None, id).get(id)
        return None if found is None else reading.query_figures(*found)

    def workload(self, since: float | None = None) -> list[Statement]:
        """What ran in the database, the most expensive first."""
        sums: dict[str, Statement] = {}
        with self._seen() as parts:
            kept = self._books.workload(since or 0.0)
            new = (each for part in parts for each in part.queries_since(since or 0.0).values())
            for one in (*kept, *(Statement(s.id, s.query, q.calls, q.seconds) for q, s in new)):
                other = sums.get(one.id, Statement(one.id, one.query, 0, 0.0))
                sums[one.id] = Statement(one.id, one.query, one.calls + other.calls, one.seconds + other.seconds)
        return sorted(sums.values(), key=lambda statement: -statement.seconds)

    def endpoints(self, since: float | None = None) -> list[EndpointFigures]:
        """Every endpoint that answered a request, the one with the most time first."""
        found = [
            reading.endpoint_figures(name, total)
            for (_, name), total in self._steps(since or 0.0).items()
            if total.calls
        ]
        return sorted(found, key=lambda endpoint: -endpoint.total_time)

    def overall(self, since: float | None = None) -> EndpointFigures:
        """All requests as if one endpoint had answered them; work outside requests is left out."""
        steps = self._steps(since or 0.0)
        return reading.endpoint_figures(
            "", reading.summed(total for (_, name), total in steps.items() if name != OUTSIDE)
        )

    def series(self, since: float | None = None, points: int = 60) -> list[Point]:
        """At most ``points`` equal steps from ``since`` (None: the first figure) until now, for a chart."""
        now = self._clock()
        if since is None:
            first = self._books.first_slot()
            since = now if first is None else float(first)
        base, width, count = reading.plan_steps(since, now, max(1, points))
        counters = self._counters(base, base, width)
        return reading.series(base, width, count, self._steps(base, base, width), counters)

    def counters(self, since: float | None = None) -> dict[str, float]:
        """Every counter, summed over all workers."""
        return {name: amount for (_, name), amount in self._counters(since or 0.0).items()}

    def totals(self, statements: int = 50) -> Totals | None:
        """Everything ever counted, for whoever scrapes it: no later look shows less, whichever worker is asked.

        None while the ledger cannot be read. Other workers' last two seconds are still to come.
        """
        self.flush()
        return self._books.totals(statements)

    def workers(self) -> list[Worker]:
        """The living workers, by their heartbeats; the oldest first."""
        now = self._clock()
        return [worker for worker in self._books.workers() if abs(now - worker.heartbeat) < LIVING]

    def notices(self) -> list[str]:
        """Where the monitor itself is not at its best, as sentences."""
        return self._books.notices()

    @deed("figures.reset")
    def reset(self) -> None:
        """Forget every figure of all workers; what they have not flushed yet comes after. Alerts stay."""
        with self._intake.lock:
            self._intake.fold(self._clock(), to_the_end=True)
            self._intake.tally = Tally()
            self._books.reset()

    def _statements(self, since: float | None, only: str | None = None) -> Statements:
        with self._seen() as parts:
            found = self._books.queries(since or 0.0, only)
            for part in parts:
                merge_statements(found, part.queries_since(since or 0.0))
        return found

    def _steps(self, since: float, base: int = 0, width: int = 1 << 60) -> Steps:
        with self._seen() as parts:
            found = self._books.endpoints(since, base, width)
            for part in parts:
                merge_steps(found, part.endpoints_since(since, base, width))
        return found

    def _counters(self, since: float, base: int = 0, width: int = 1 << 60) -> dict[tuple[int, str], float]:
        with self._seen() as parts:
            found = self._books.counters(since, base, width)
            for part in parts:
                for key, amount in part.counters_since(since, base, width).items():
                    found[key] = found.get(key, 0) + amount
        return found

    @contextmanager
    def _seen(self) -> Iterator[tuple[Tally, Tally]]:
        """What this process counted and has not flushed, while nothing moves from there to the books."""
        self._check_process()
        with self._intake.lock:
            now = self._clock()
            self._intake.fold(now)
            yield self._intake.tally, self._intake.held(now)
        self._intake.tell()

    # --- alerts ---

    def evaluate(self, now: float) -> None:
        """Apply the alert rules; one worker does it for all."""
        self._evaluation.evaluate(now)

    def alerts(self) -> list[Alert]:
        """Standing alerts, the newest first, then those resolved lately."""
        return self._evaluation.alerts()
