"""The shared ledger and what stands in for it: figures are kept in memory while the file cannot be used."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from flask_dbopt.monitor import totals
from flask_dbopt.monitor.figures import Statement, Worker
from flask_dbopt.monitor.ledger import Ledger
from flask_dbopt.monitor.ledger_file import LedgerBrokenError, LedgerBusyError, LedgerError
from flask_dbopt.monitor.remarkable import SeenPlan, ServedRequest, SlowRun
from flask_dbopt.monitor.sums import Shape, Statements, Steps, merge_statements, merge_steps
from flask_dbopt.monitor.tally import Tally
from flask_dbopt.monitor.totals import Totals

log = logging.getLogger("flask_dbopt.monitoring")

#: Seconds between two tries of a file that could not be used.
RETRY = 30.0
#: Tries of a change that somebody waits for while others write, each as patient as the ledger is.
TRIES = 5
#: Seconds for which a tally waits for other writers before it goes to memory.
LONGEST_WAIT = 60.0
#: Ledgers that one process sets aside before it leaves the file alone.
MOST_ASIDE = 3
#: Bytes that the figures may take on disk, and in memory where there is no file.
DISK_LIMIT, MEMORY_LIMIT = 64 << 20, 8 << 20

T = TypeVar("T")


class Books:
    """Every figure that was flushed, wherever it is kept. A faulty file is no error here."""

    def __init__(self, path: Path | None, *, keep_seconds: float, disk_limit: int = DISK_LIMIT) -> None:
        self._disk = None if path is None else Ledger(path)
        self._memory = Ledger(None)
        self._memory_used = path is None
        self._keep_seconds = keep_seconds
        self._disk_limit = disk_limit
        self._lock = threading.RLock()
        self._problem = "" if path is not None else "there is no state folder"
        self._aside: list[Path] = []
        self._retry_at = 0.0
        self._busy_since: float | None = None
        self.unread = 0
        """How often the file could not be read."""

    @property
    def outlive(self) -> bool:
        """Whether there is a file, so that what is flushed is there after this process."""
        return self._disk is not None

    @property
    def problem(self) -> str:
        """Why figures are kept in memory alone; empty while they are not."""
        return self._problem

    def flush(self, tally: Tally, worker: Worker | None, now: float, *, patient: bool = True) -> bool:
        """Add a tally where it can be kept. False: others were writing all the time, so offer it again."""
        with self._lock:
            try:
                if (disk := self._usable(now)) is not None:
                    self._on_disk(disk, lambda disk: self._write(disk, tally, worker, now))
                    return True
            except LedgerBusyError:
                self._busy_since = now if self._busy_since is None else min(self._busy_since, now)
                if patient and now - self._busy_since < LONGEST_WAIT:
                    return False
            except LedgerError as error:
                self._give_up(error, now)
            self._memory_used = True
            self._memory.write(tally, worker)
            self._memory.maintain(now, keep_seconds=self._keep_seconds, limit=MEMORY_LIMIT)
            return True

    def _write(self, disk: Ledger, tally: Tally, worker: Worker | None, now: float) -> None:
        disk.write(tally, worker)
        # From here on the tally is kept; trouble with the rest must not count it twice.
        self._problem, self._busy_since = "", None
        try:
            if self._memory_used:
                disk.absorb(self._memory)
                self._memory.close()
                self._memory_used = False
            disk.maintain(now, keep_seconds=self._keep_seconds, limit=self._disk_limit)
        except LedgerBusyError:
            pass
        except LedgerBrokenError as error:
            self._set_aside(disk, error)
        except LedgerError as error:
            self._give_up(error, now)

    def queries(self, since: float, only: str | None = None) -> Statements:
        """The statements of the slots that reach beyond ``since``, or only the one with this id."""
        found: Statements = {}
        for part in self.read(lambda ledger: ledger.queries(since, only)):
            merge_statements(found, part)
        return found

    def shapes(self, ids: list[str]) -> dict[str, Shape]:
        """What is known of these statements beside their sums."""
        return {name: shape for part in self.read(lambda ledger: ledger.shapes(ids)) for name, shape in part.items()}

    def workload(self, since: float, database: str | None = None) -> list[Statement]:
        """What ran in the same slots, without the rest; a statement that two books know stands there twice."""
        return [each for part in self.read(lambda ledger: ledger.workload(since, database)) for each in part]

    def slow_runs(self, statement: str) -> list[SlowRun]:
        """The slow runs that are kept of one statement."""
        return [run for part in self.read(lambda ledger: ledger.slow_runs(statement)) for run in part]

    def plans(self, statement: str) -> list[SeenPlan]:
        """The plans that are kept of one statement."""
        return [plan for part in self.read(lambda ledger: ledger.plans(statement)) for plan in part]

    def requests(self, since: float) -> list[ServedRequest]:
        """The requests that are kept."""
        return [request for part in self.read(lambda ledger: ledger.requests(since)) for request in part]

    def peaks(self, since: float, at_least: float) -> dict[str, tuple[float, str]]:
        """The longest run, and the text, of each statement that took ``at_least`` seconds once."""
        found: dict[str, tuple[float, str]] = {}
        for part in self.read(lambda ledger: ledger.peaks(since, at_least)):
            for name, peak in part.items():
                found[name] = max(peak, found.get(name, peak))
        return found

    def endpoints(self, since: float, base: int = 0, width: int = 1 << 60) -> Steps:
        """The sums by step of ``width`` seconds from ``base`` on, and by endpoint."""
        found: Steps = {}
        for part in self.read(lambda ledger: ledger.endpoints(since, base, width)):
            merge_steps(found, part)
        return found

    def counters(self, since: float, base: int = 0, width: int = 1 << 60) -> dict[tuple[int, str], float]:
        """The counters in the same manner."""
        found: dict[tuple[int, str], float] = {}
        for part in self.read(lambda ledger: ledger.counters(since, base, width)):
            for key, amount in part.items():
                found[key] = found.get(key, 0) + amount
        return found

    def first_slot(self) -> int | None:
        """Where the oldest slot starts."""
        return min((s for s in self.read(Ledger.first_slot) if s is not None), default=None)

    def totals(self, statements: int) -> Totals | None:
        """What only grows, of the file alone where there is one; None while that cannot be read."""
        with self._lock:
            try:
                return self._on_disk(self._disk or self._memory, lambda ledger: totals.read(ledger, statements))
            except LedgerError:
                return None  # memory's would be less: a fall, and then a rise that was counted before

    def workers(self) -> list[Worker]:
        """Every worker that is remembered, whether it lives or not."""
        newest: dict[str, Worker] = {}
        for part in self.read(Ledger.workers):
            for worker in part:
                if worker.id not in newest or worker.heartbeat > newest[worker.id].heartbeat:
                    newest[worker.id] = worker
        return list(newest.values())

    def read(self, read: Callable[[Ledger], T]) -> list[T]:
        """What the file tells, and what memory holds. A file that cannot be read tells nothing."""
        parts: list[T] = []
        with self._lock:
            if self._disk is not None:
                try:
                    parts.append(self._on_disk(self._disk, read))
                except LedgerBusyError:
                    self.unread += 1  # somebody is just making it
                except LedgerError as error:
                    self.unread += 1
                    self._problem = self._problem or str(error)
            if self._memory_used:
                parts.append(read(self._memory))
        return parts

    def change(self, now: float, *changes: tuple[str, list[tuple[Any, ...]]]) -> None:
        """Run statements, each with its rows, in the file, or in memory where it cannot be written."""
        with self._lock:
            for _ in range(TRIES):
                try:
                    if (disk := self._usable(now)) is not None:
                        self._on_disk(disk, lambda disk: disk.change(*changes))
                        return
                except LedgerBusyError:
                    continue
                except LedgerError as error:
                    self._give_up(error, now)
                break
            self._memory_used = True
            self._memory.change(*changes)

    def reset(self) -> None:
        """Forget every figure. Raises LedgerError where the file will not have it."""
        with self._lock:
            if self._memory_used:
                self._memory.reset()
            if self._disk is not None:
                self._on_disk(self._disk, Ledger.reset)

    def leave(self, worker_id: str, now: float) -> None:
        """The worker takes its leave; its counts stay, its gauges go."""
        with self._lock:
            if self._disk is not None and not self._problem:
                try:
                    self._disk.leave(worker_id, now)
                except LedgerError:
                    return  # it will be said to have ended without a word

    def notices(self) -> list[str]:
        """What is wrong with the file, as sentences for people."""
        told = []
        if self._problem:
            told.append(f"figures are kept in memory and cover this process alone: {self._problem}")
        told += [f"a broken ledger was set aside as {aside}; counting began anew" for aside in self._aside]
        return told

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._disk is not None:
                self._disk.close()
            self._memory.close()

    def let_go(self) -> None:
        """Before a fork: close the file until it is used again."""
        with self._lock:
            if self._disk is not None:
                self._disk.close()

    def abandon(self) -> None:
        """After a fork, in the child: new lock, new handles, nothing in memory."""
        self._lock = threading.RLock()
        for ledger in (self._disk, self._memory):
            if ledger is not None:
                ledger.abandon()
        self._memory_used = self._disk is None
        self._busy_since = None

    def _usable(self, now: float) -> Ledger | None:
        """The file, unless it failed a short while ago."""
        return None if self._problem and 0 <= self._retry_at - now <= RETRY else self._disk

    def _give_up(self, error: LedgerError, now: float) -> None:
        if not self._problem:
            log.warning("figures are kept in memory: %s", error)
        self._problem = str(error)
        self._retry_at = now + RETRY

    def _on_disk(self, disk: Ledger, use: Callable[[Ledger], T]) -> T:
        """Use the file; one that is found broken is set aside, and the new one is used."""
        try:
            return use(disk)
        except LedgerBrokenError as error:
            self._set_aside(disk, error)
            return use(disk)

    def _set_aside(self, disk: Ledger, error: LedgerBrokenError) -> None:
        if len(self._aside) >= MOST_ASIDE:
            raise LedgerError(f"it broke {MOST_ASIDE} times: {error}") from error
        aside = disk.set_aside()
        if aside is not None:
            log.warning("the ledger was broken (%s) and is set aside as %s", error, aside)
            self._aside.append(aside)
