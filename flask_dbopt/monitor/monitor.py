"""The monitor: what the recorder noted, added up across workers and told as figures and alerts."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from flask_dbopt import signals
from flask_dbopt.deeds import deed
from flask_dbopt.monitor import reading
from flask_dbopt.monitor.alerts import Alert, RuleState, Silence
from flask_dbopt.monitor.books import Books
from flask_dbopt.monitor.evaluation import AlertSettings, Evaluation
from flask_dbopt.monitor.evidence import Facts
from flask_dbopt.monitor.figures import (
    EndpointFigures,
    Point,
    QueryDetails,
    QueryFigures,
    RequestFigures,
    Statement,
    Worker,
)
from flask_dbopt.monitor.intake import Intake, IntakeSettings
from flask_dbopt.monitor.lookout import Lookout, LostUpdate
from flask_dbopt.monitor.plans import Explain, Plans
from flask_dbopt.monitor.request import OUTSIDE
from flask_dbopt.monitor.sums import COMMAND, JOB, Shape, Statements, Steps, is_request, merge_statements, merge_steps
from flask_dbopt.monitor.tally import Tally
from flask_dbopt.monitor.tap import Tap
from flask_dbopt.monitor.totals import Totals
from flask_dbopt.monitor.transactions import Sight

log = logging.getLogger("flask_dbopt.monitoring")

#: A worker lives while its heartbeat is younger than this, in seconds.
LIVING = 10.0
#: Seconds between flushes, where somebody comes by regularly.
FLUSH_EVERY = 2.0
#: Seconds for which a worker that ended without a word is told of.
LOST_SHOWN = 86_400.0
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
        self._plans = Plans(self._intake)
        self._lookout = Lookout(self._intake, self._books, timer)
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._id = uuid.uuid4().hex[:12]
        self._started = self._clock()
        self._swept = False
        self._flushed: float | None = None

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

    def explain_by(self, explain: Explain) -> None:
        """Have the plans of slow statements explained so, in the sweep."""
        self._plans.explain = explain

    def attend_by(self, attend: Callable[[], None]) -> None:
        """Call this where work outside requests begins, or piles up, so that somebody comes by to sweep."""
        self._intake.attend = attend

    def see_by(self, sight: Sight) -> None:
        """Watch for lost updates, seeing by ``sight`` what statements touch."""
        self._intake.watch.sight = sight

    @contextmanager
    def command(self, name: str) -> Iterator[None]:
        """This process runs a command: what it does outside requests is booked on that while the block lasts."""
        intake, started = self._intake, self._clock()
        if intake.outside:
            yield
            return
        intake.outside = COMMAND + name
        try:
            yield
        finally:
            with intake.lock:
                now = self._clock()
                intake.fold(now, to_the_end=True)
                if intake.tally or self._swept:
                    intake.tally.request(intake.outside, max(0.0, now - started), False, now)
                intake.outside = OUTSIDE
            intake.tell()

    @contextmanager
    def job(self, name: str) -> Iterator[None]:
        """Book what the block runs on a job of this name: in a thread, a scheduled job, a task of a queue."""
        self._intake.attend()
        cost = self.recorder.begin(JOB + name, "")
        status = None
        try:
            yield
            status = 0
        finally:
            self.recorder.end(cost, status)

    def tap(self) -> Tap:
        """Hears every statement from when it is opened until it is closed: for tests."""
        return Tap(self._intake, clock=self._clock)

    # --- the sweep ---

    def sweep(self, now: float) -> None:
        """Fold what was recorded and flush it, with this worker's heartbeat."""
        self._check_process()
        with self._intake.lock:
            self._swept = True
            self._intake.fold(now)
            self._lookout.sweep(self._id, now)
            self._flush(now, heartbeat=True)
        self._intake.tell()
        self._plans.sweep(now)

    def flush(self) -> None:
        """Fold and flush now; what others are still fetching waits for a later sweep."""
        now = self._clock()
        self._check_process()
        with self._intake.lock:
            self._intake.fold(now)
            self._lookout.sweep(self._id, now)
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
            self._lookout.sweep(self._id, now)
            deadline = time.monotonic() + LAST_FLUSH
            while self._books.outlive and not self._flush(now, heartbeat=False) and time.monotonic() < deadline:
                pass
            if self._swept:
                self._books.leave(self._id, now)
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
        interval = FLUSH_EVERY if self._flushed is None else max(0.0, now - self._flushed)
        worker = Worker(self._id, self._pid, socket.gethostname(), self._started, now, gauges, interval)
        if not heartbeat and not self._intake.tally:
            return True
        if not self._books.flush(self._intake.tally, worker if heartbeat else None, now):
            return False
        self._intake.tally = self._intake.empty()
        self._flushed = now
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

    def details(self, id: str) -> QueryDetails:  # noqa: A002 - the figures' own word
        """The slow runs and the plans that are kept of one statement."""
        with self._seen() as parts:
            runs, plans = self._books.slow_runs(id), self._books.plans(id)
            for part in parts:
                runs += [run for run in part.remarks.runs if run.statement == id]
                plans += [plan for plan in part.remarks.plans if plan.statement == id]
        return reading.details(runs, plans)

    def requests(self, since: float | None = None) -> list[RequestFigures]:
        """Of each endpoint the slowest, the newest slow ones and those that repeated a statement; slowest first."""
        since = since or 0.0
        shapes: dict[str, Shape] = {}
        with self._seen() as parts:
            found = self._books.requests(since)
            for part in parts:
                found += [request for request in part.remarks.requests.values() if request.at > since]
                shapes.update(part.shapes)
            wanted = {name for request in found for name, _ in request.groups} - set(shapes)
            if wanted:
                shapes.update(self._books.shapes(sorted(wanted)))
        return sorted((reading.request_figures(each, shapes) for each in found), key=lambda request: -request.time)

    def workload(self, since: float | None = None, database: str | None = None) -> list[Statement]:
        """What ran in the databases, or in one of them, the most expensive first."""
        sums: dict[str, Statement] = {}
        with self._seen() as parts:
            kept = self._books.workload(since or 0.0, database)
            new = [each for part in parts for each in part.queries_since(since or 0.0).values()]
            fresh = [Statement(s.id, s.query, q.calls, q.seconds, s.database) for q, s in new]
            for one in (*kept, *(each for each in fresh if database in (None, each.database))):
                if (other := sums.get(one.id)) is not None:
                    one = replace(one, calls=one.calls + other.calls, seconds=one.seconds + other.seconds)
                sums[one.id] = one
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
            "", reading.summed(total for (_, name), total in steps.items() if is_request(name))
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

    def lost_updates(self, since: float | None = None) -> list[LostUpdate]:
        """Of each endpoint and table the latest update that may have been lost, the newest first."""
        with self._seen():
            self._lookout.sweep(self._id, self._clock())
            return self._lookout.found(since or 0.0)

    def workers(self) -> list[Worker]:
        """The living workers, by their heartbeats; the oldest first."""
        now = self._clock()
        return [each for each in self._books.workers() if each.ended is None and abs(now - each.heartbeat) < LIVING]

    def lost_workers(self, since: float | None = None) -> list[Worker]:
        """Those that ended without a word, such as by kill -9, heard of last after ``since``; the latest first."""
        now = self._clock()
        lost = [
            worker
            for worker in self._books.workers()
            if worker.ended is None and now - worker.heartbeat >= LIVING and not _still_runs(worker)
        ]
        return sorted((w for w in lost if w.heartbeat > (since or 0.0)), key=lambda worker: -worker.heartbeat)

    def notices(self) -> list[str]:
        """Where the monitor itself is not at its best, as sentences."""
        return [*self._books.notices(), *reading.farewells(self.lost_workers(self._clock() - LOST_SHOWN))]

    @deed("figures.reset")
    def reset(self) -> None:
        """Forget every figure of all workers; what they have not flushed yet comes after. Alerts stay."""
        with self._intake.lock:
            self._intake.fold(self._clock(), to_the_end=True)
            self._intake.tally = self._intake.empty()
            self._books.reset()
            self._lookout.forget(self._clock())

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

    def watch(self, name: str, probe: Callable[[], Facts], *, every: float = 0.0) -> None:
        """Let alert rules judge the facts that ``probe`` tells; it is asked at most every so many seconds."""
        self._evaluation.watches.watch(name, probe, every)

    def measure(
        self, name: str, probe: Callable[[], Mapping[str, Mapping[str, float]]], *, every: float, keep: float
    ) -> None:
        """Keep what ``probe`` tells, by kind and name, for ``keep`` seconds, so that rules can see how it moves."""
        self._evaluation.watches.measure(name, probe, every=every, keep=keep)

    def evaluate(self, now: float) -> None:
        """Apply the alert rules; one worker does it for all."""
        self._evaluation.evaluate(now)

    def alerts(self) -> list[Alert]:
        """Standing alerts, the newest first, then those that were resolved, as long as figures are kept."""
        return self._evaluation.alerts()

    def rules(self) -> list[RuleState]:
        """Every alert rule: its threshold, the worst it finds now, and how many of its alerts stand."""
        return self._evaluation.rules()

    @deed("alert.silence", told={"rule": "rule", "subject": "subject", "hours": "hours", "until": "until", "by": "for"})
    def silence(
        self,
        rule: str,
        subject: str | None = None,
        *,
        hours: float | None = None,
        until: float | None = None,
        by: str = "",
    ) -> Silence:
        """Tell nobody of a rule's alerts ("*": of any rule's) for so long; without a time, until it is lifted.

        They still show, marked. Raises ValueError for an unknown rule, or a time gone by.
        """
        ends = self._clock() + hours * 3600 if hours is not None else until
        return self._evaluation.silence(rule, subject, ends, by)

    @deed("alert.unsilence", told={"rule": "rule", "subject": "subject"})
    def unsilence(self, rule: str, subject: str | None = None) -> bool:
        """Lift a silence; whether there was one. An alert that still stands is told then."""
        return self._evaluation.unsilence(rule, subject)

    def silences(self) -> list[Silence]:
        """Those that hold now, the newest first."""
        return self._evaluation.silences()


def _still_runs(worker: Worker) -> bool:
    """Whether a worker that is not heard of is only held up: its process is there, on this machine."""
    if worker.host != socket.gethostname():
        return False
    try:
        os.kill(worker.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
