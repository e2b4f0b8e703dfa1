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
from flask_dbopt.monitor.account import Account
from flask_dbopt.monitor.alerts import Alert, RuleState, Silence
from flask_dbopt.monitor.books import Books
from flask_dbopt.monitor.evaluation import AlertSettings, Evaluation
from flask_dbopt.monitor.evidence import Facts
from flask_dbopt.monitor.figures import Worker
from flask_dbopt.monitor.intake import Intake, IntakeSettings
from flask_dbopt.monitor.lookout import Lookout, LostUpdate
from flask_dbopt.monitor.plans import Explain, Plans
from flask_dbopt.monitor.request import OUTSIDE
from flask_dbopt.monitor.sums import COMMAND, JOB
from flask_dbopt.monitor.tap import Tap
from flask_dbopt.monitor.totals import Totals
from flask_dbopt.monitor.transactions import Sight

log = logging.getLogger("flask_dbopt.monitoring")

#: Seconds between flushes, where somebody comes by regularly.
FLUSH_EVERY = 2.0
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


class Monitor(Account):
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
        self._emit = emit  # which deeds tell themselves by
        intake = Intake(settings, emit, clock=clock, timer=timer)
        super().__init__(intake, Books(path, keep_seconds=settings.monitor_retention_days * 86_400), clock)
        self.recorder = intake.recorder
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
                    intake.tally.requests(intake.outside, [max(0.0, now - started)], 0, now)
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

    # --- what is told beside the account ---

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

    @deed("figures.reset")
    def reset(self) -> None:
        """Forget every figure of all workers; what they have not flushed yet comes after. Alerts stay."""
        with self._intake.lock:
            self._intake.fold(self._clock(), to_the_end=True)
            self._intake.tally = self._intake.empty()
            self._books.reset()
            self._lookout.forget(self._clock())

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

    @deed("alert.unsilence", told={"rule": "rule", "subject": "subject"}, found=lambda there: {"lifted": there})
    def unsilence(self, rule: str, subject: str | None = None) -> bool:
        """Lift a silence; whether there was one. An alert that still stands is told then."""
        return self._evaluation.unsilence(rule, subject)

    def silences(self) -> list[Silence]:
        """Those that hold now, the newest first."""
        return self._evaluation.silences()
