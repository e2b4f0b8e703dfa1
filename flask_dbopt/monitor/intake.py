"""From records to sums: folds what the recorder collected into a tally, away from the requests' path."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Protocol

from flask_dbopt import signals
from flask_dbopt.monitor.lost_updates import Watch
from flask_dbopt.monitor.recorder import PENDING, Recorder
from flask_dbopt.monitor.remarkable import ServedRequest, slow_run
from flask_dbopt.monitor.repeats import Repeated, Repeats
from flask_dbopt.monitor.request import OUTSIDE, Record, RequestCost, Sample
from flask_dbopt.monitor.sums import ends_transaction, identify
from flask_dbopt.monitor.tally import UNMATCHED, Tally
from flask_dbopt.sql.fingerprint import fingerprint

log = logging.getLogger("flask_dbopt.query_metrics")

#: Records folded on a request's own thread when the sweep does not come: about a millisecond's work.
BATCH = 1_000
#: Slow statements that wait for their plan; the newest are kept.
UNEXPLAINED = 100
#: Seconds for which a record outside any request waits for a cursor that may still be fetching.
FETCHING = 30.0

_fresh: list[int] = []
#: What ``sys.getrefcount`` says of a record in the sweep's hands alone; more, and a cursor holds it too.
_UNHELD = sys.getrefcount(_fresh)


class IntakeSettings(Protocol):
    """The settings that folding looks at."""

    @property
    def monitor_slow_seconds(self) -> float: ...
    @property
    def monitor_n_plus_one(self) -> int: ...
    @property
    def monitor_record_params(self) -> bool: ...


def _nobody() -> None:
    """Nobody comes by."""


class _Batch:
    """Requests of one endpoint that are counted together."""

    __slots__ = ("durations", "errors", "latest", "n_plus_one", "records", "remarkable", "repeated", "slowest")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.durations: list[float] = []
        self.errors = self.repeated = self.n_plus_one = 0
        self.latest = 0.0
        self.slowest = -1.0
        self.remarkable: tuple[RequestCost, Repeated, float] | None = None
        """The slowest of those that asked the database."""


class Intake:
    """One process's recorder and what came of it so far. Hold ``lock`` for all but ``count``."""

    def __init__(
        self,
        settings: IntakeSettings,
        emit: signals.Emit,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.recorder = Recorder(full=self._relieve, timer=timer)
        self.watch = Watch(timer)
        self.attend: Callable[[], None] = _nobody
        """Called where work outside requests begins or piles up: somebody is to come by and sweep."""
        self.outside = OUTSIDE
        """What the work of this process outside requests is booked on."""
        self._settings = settings
        self._emit = emit
        self._clock = clock
        self._timer = timer
        self._start_anew()

    def _start_anew(self) -> None:
        self.lock = threading.RLock()
        self.tally = self.empty()
        """What is folded and not flushed."""
        self.unexplained: deque[tuple[str, str, float]] = deque(maxlen=UNEXPLAINED)
        """Slow statements whose plan nobody looked at yet: database, fingerprint, when."""
        self._repeats = Repeats()
        self._samples: deque[tuple[Sample, float]] = deque()
        self.taps: list[Callable[[list[Record], str], None]] = []
        """Who hears each run as it is folded; nobody, but in tests."""
        self._counts: deque[tuple[str, float]] = deque()
        self._held: deque[tuple[Record, float]] = deque()
        self._to_tell: list[tuple[str, dict[str, Any]]] = []
        self._dropped = 0

    def empty(self) -> Tally:
        """A tally to begin with."""
        return Tally(self.recorder.places)

    def abandon(self) -> None:
        """After a fork, in the child: what was collected so far is the parent's to count."""
        self.recorder.abandon()
        self.watch.abandon()
        self._start_anew()

    def count(self, name: str, amount: float) -> None:
        """Add to a counter; any thread may."""
        self._counts.append((name, amount))
        if len(self._counts) >= PENDING:
            self._relieve()

    def held(self, now: float) -> Tally:
        """What waits for its cursors, counted as it stands now."""
        tally = self.empty()
        if self._held:
            tally.statements([record for record, _ in self._held], self.outside, now, float("inf"))
        return tally

    def _relieve(self) -> None:
        """Too much waits for the sweep: fold a little here, or lose the oldest where even that cannot be.

        A request may be waiting: no disk, no signal and no log line.
        """
        self.attend()
        if self.lock.acquire(blocking=False):
            try:
                self.fold(self._clock(), limit=BATCH)
            finally:
                self.lock.release()
            return
        recorder = self.recorder
        for waiting in (recorder.loose, recorder.finished, self._counts):
            while len(waiting) > 10 * PENDING:
                waiting.popleft()
                self._dropped += 1

    def fold(self, now: float, *, limit: int = 0, to_the_end: bool = False) -> None:
        """Add what was recorded to the tally: all of it, or about ``limit`` records."""
        slow = self.recorder.slow
        for _ in range(len(slow)):
            self._samples.append((slow.popleft(), now))
        sampled = {id(sample.record) for sample, _ in self._samples} if self._samples else ()
        folded = self._fold_requests(now, limit)
        self._fold_loose(now, max(1, limit - folded) if limit else 0, sampled, to_the_end)
        if self._samples:
            self._fold_samples(now, to_the_end)
        for _ in range(min(len(self._counts), limit) if limit else len(self._counts)):
            name, amount = self._counts.popleft()
            self.tally.count(name, amount, now)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.tally.count("monitor.dropped", dropped, now)

    def _fold_requests(self, now: float, limit: int) -> int:
        """Count those that ended, and their statements; how many records that were."""
        recorder, threshold, timer_now = self.recorder, self._settings.monitor_n_plus_one, self._timer()
        folded = 0
        batches: dict[tuple[str, int], _Batch] = {}
        while recorder.finished and (not limit or folded < limit):
            cost = recorder.finished.popleft()
            endpoint, records, ended = cost.endpoint or UNMATCHED, cost.records, cost.ended
            recorder.pending -= len(records) + 1
            folded += len(records) + 1
            self.watch.offer(records, endpoint)
            for hear in self.taps:
                hear(records, endpoint)
            at = now if ended is None or ended > timer_now else now - timer_now + ended
            # Counted together: most requests of an endpoint run the same statements.
            batch = batches.get((endpoint, int(at)))
            if batch is None:
                batch = batches[endpoint, int(at)] = _Batch()
            batch.records += records
            batch.latest = max(batch.latest, at)
            if ended is None:
                self._repeats.add_part(cost)
                continue
            seconds = ended - cost.started
            batch.durations.append(seconds)
            batch.errors += cost.status is None or cost.status >= 500
            done = self._repeats.of(cost, threshold)
            if done.repeated:
                batch.repeated += done.repeated
                if done.groups:
                    batch.n_plus_one += 1
                    self.tally.count(f"n_plus_one.{endpoint}", 1, at)
                    self._tell_repeats(done, endpoint, at)
                    self._remark(cost, done, endpoint, at)
            if seconds > batch.slowest and (records or done.earlier):
                batch.slowest, batch.remarkable = seconds, (cost, done, at)
        for (endpoint, _), batch in batches.items():
            if batch.durations:
                self.tally.requests(
                    endpoint, batch.durations, batch.errors, batch.latest, batch.repeated, batch.n_plus_one
                )
            if batch.remarkable is not None:
                cost, done, at = batch.remarkable
                self._remark(cost, done, endpoint, at)
            self._count_runs(batch.records, endpoint, batch.latest)
        if not recorder.finished:
            recorder.pending = 0
        return folded

    def _tell_repeats(self, done: Repeated, endpoint: str, at: float) -> None:
        for (query, _), calls in done.groups.items():
            self.tally.count("monitor.n_plus_one", 1, at)
            self.later("n_plus_one_detected", sql=query, calls=calls, endpoint=endpoint)

    def _remark(self, cost: RequestCost, done: Repeated, endpoint: str, at: float) -> None:
        """Keep a request if it is the slowest of its kind since the last flush."""
        requests, kind = self.tally.remarks.requests, (endpoint, bool(done.groups))
        seconds = (cost.ended or cost.started) - cost.started
        if kind in requests and requests[kind].seconds >= seconds:
            return
        records = cost.records
        requests[kind] = ServedRequest(
            endpoint,
            at,
            cost.method,
            cost.status,
            seconds,
            queries=len(records) + done.earlier,
            database=sum(record[1] for record in records if not record[4]) + done.earlier_seconds,
            transactions=sum(ends_transaction(record[0]) for record in records) + done.earlier_transactions,
            repeated=done.repeated,
            groups=tuple((identify(*group), calls) for group, calls in done.groups.items()),
        )

    def _fold_loose(self, now: float, limit: int, sampled: Collection[int], to_the_end: bool) -> None:
        """Those outside requests; what a cursor still holds may get more rows and time, so it waits."""
        ready: list[Record] = []
        for _ in range(len(self._held)):
            record, since = self._held.popleft()
            held = sys.getrefcount(record) > _UNHELD + (id(record) in sampled)
            if not to_the_end and held and 0 <= now - since < FETCHING:
                self._held.append((record, since))
            else:
                ready.append(record)
        loose = self.recorder.loose
        batch = [loose.popleft() for _ in range(min(len(loose), limit) if limit else len(loose))]
        self.watch.offer(batch, self.outside, is_request=False)
        batch.reverse()
        while batch:
            record = batch.pop()
            for hear in self.taps:
                hear([record], self.outside)
            held = sys.getrefcount(record) > _UNHELD + (id(record) in sampled)
            if to_the_end or not held or len(self._held) >= BATCH:
                ready.append(record)
            else:
                self._held.append((record, now))
        if ready:
            self._count_runs(ready, self.outside, now)

    def _fold_samples(self, now: float, to_the_end: bool) -> None:
        """Keep the slow runs whose time is final: nobody but their sample has the record any more."""
        for _ in range(len(self._samples)):
            sample, since = self._samples.popleft()
            record = sample.record
            if not to_the_end and sys.getrefcount(record) > _UNHELD + 1 and 0 <= now - since < FETCHING:
                self._samples.append((sample, since))
                continue
            query, database = fingerprint(record[0]), record[6]
            place = self.recorder.places.get(record[0])
            at = now
            if record[5]:
                at -= max(0.0, self._timer() - record[5] - record[1])
            run = slow_run(sample, identify(query, database), place, at, values=self._settings.monitor_record_params)
            self.tally.remarks.runs.append(run)
            self.unexplained.append((database, query, run.at))

    def _count_runs(self, records: list[Record], endpoint: str, at: float) -> None:
        if not records:
            return
        for record in self.tally.statements(records, endpoint, at, self._settings.monitor_slow_seconds):
            query, place = fingerprint(record[0]), self.recorder.places.get(record[0])
            self.later(
                "slow_query",
                sql=query,
                seconds=record[1],
                endpoint=endpoint,
                id=identify(query, record[6]),
                place=place,
            )
        if signals.query_executed.receivers:
            for sql, seconds, rows, error, cached, *_ in records:
                self.later(
                    "query_executed", sql=fingerprint(sql), seconds=seconds, rows=rows, cached=cached, error=error
                )

    def later(self, signal: str, **details: Any) -> None:
        """Have a signal sent by ``tell``."""
        if len(self._to_tell) < PENDING:
            self._to_tell.append((signal, details))

    def tell(self) -> None:
        """Signals and log lines, once no lock is held any more."""
        told, self._to_tell = self._to_tell, []
        for signal, details in told:
            if signal == "slow_query":
                log.warning(
                    "slow query %s: %.1f ms in %s%s: %s",
                    details["id"],
                    details["seconds"] * 1e3,
                    details["endpoint"] or "no request",
                    f" at {details['place']}" if details["place"] else "",
                    details["sql"],
                )
            self._emit(signal, **details)
