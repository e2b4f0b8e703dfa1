"""Builds the rooms, wakes them once a process, and closes them. Knows no Flask: what is Flask's is handed in."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any
from weakref import WeakMethod, finalize

from flask_dbopt import alerting, forks, signals
from flask_dbopt.audit.audit import Audit
from flask_dbopt.cache.cache import Cache
from flask_dbopt.chronicle import Chronicle
from flask_dbopt.databases import Database, Databases
from flask_dbopt.deeds import ALLOWED, REFUSED
from flask_dbopt.health import Health, flaws, judged
from flask_dbopt.housekeeper import Housekeeper
from flask_dbopt.lease import Lease
from flask_dbopt.logs import Bounds, Logs
from flask_dbopt.monitor.guard import Guard
from flask_dbopt.monitor.monitor import FLUSH_EVERY, Monitor
from flask_dbopt.monitor.recorder import Recorder
from flask_dbopt.monitor.request import CURRENT
from flask_dbopt.settings import Settings
from flask_dbopt.signals import Emit, silence
from flask_dbopt.timetable import Schedule, Timetable

log = logging.getLogger("flask_dbopt")

#: Seconds between two turns at the lease: after its holder ends, another worker has it within this time.
LEASE_EVERY = 5.0
UPKEEP_EVERY = 10.0
CHECKPOINT_EVERY = 2.0


#: What each worker's cache reports; the monitor makes differences of the counters.
_CACHE_COUNTERS = ("hits", "misses", "fills", "evictions", "expirations", "invalidations", "refused")
_CACHE_GAUGES = ("entries", "bytes", "max_entries", "max_bytes")


class Optimizer:
    """Everything one app has of us. ``state_dir`` None: figures stay in memory. ``log_dir`` None: no log files."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        sources: dict[str, str],
        *,
        unheeded: Sequence[str] = (),
        state_dir: Path | None,
        backup_dir: Path,
        log_dir: Path | None = None,
        build_road: Callable[..., Any],
        build_guard: Callable[[Settings, Recorder, Emit], Guard | None] = lambda *_: None,
        emit: Emit = silence,
        clock: Callable[[], float] = time.time,
        in_background: bool = True,
    ) -> None:
        self.name = name
        self.settings = settings
        self.sources = sources
        self.unheeded = tuple(unheeded)
        """Settings that are given and that no room reads in this version, as sentences."""
        self.problems: list[str] = []
        """What could not be set up, as sentences."""
        self.state_dir = state_dir
        self.backup_dir = backup_dir
        self.version = _version()
        self.tidings = alerting.Tidings(emit, name, settings, self.version)
        self.emit: Emit = self.tidings
        self.schedule: Schedule | None = None
        self.closers: list[Callable[[], None]] = []
        """Called when the optimizer closes, before the rooms do."""
        self.parent_duties: list[Callable[[], None]] = []
        """Called before each fork …"""
        self.child_duties: list[Callable[[], None]] = []
        """… and in each forked child."""
        self._clock = clock
        self._in_background = in_background and settings.enabled
        self._serves = False
        self.monitor = Monitor(settings, None if state_dir is None else state_dir / "ledger.db", self.emit, clock=clock)
        self.cache = Cache(
            max_entries=settings.cache_max_entries,
            ttl=settings.cache_ttl,
            max_bytes=settings.cache_max_bytes,
            max_result=settings.cache_max_result,
            enabled=settings.cache_enabled and settings.enabled,
            emit=emit,
        )
        cache = self.cache
        self.monitor.source(
            "cache",
            counters=lambda: _some(cache.stats(), _CACHE_COUNTERS),
            gauges=lambda: _some(cache.stats(), _CACHE_GAUGES),
        )
        self.guard = build_guard(settings, self.monitor.recorder, self.emit)
        inspect = None if self.guard is None else self.guard.inspect
        self.databases = Databases(
            settings,
            self.monitor,
            cache,
            backup_dir=backup_dir,
            build_road=partial(build_road, settings, self.monitor.recorder, inspect=inspect),
            emit=self.emit,
            clock=clock,
            is_kept=_weakly(self._is_kept, default=False),
        )
        self.monitor.explain_by(self.databases.explained)
        self.monitor.attend_by(_weakly(self.attend))
        self.timetable = Timetable(self.databases, settings.backup_interval_hours, clock)
        self.tidings.heed(self.monitor.count, self.timetable.due)
        self.closers.append(self.tidings.close)
        self.child_duties.append(self.tidings.abandon)
        alerting.watch(self.monitor, self.databases, settings, state_dir=state_dir, backup_dir=backup_dir)
        days = 86_400.0
        bounds = Bounds(settings.log_max_bytes, settings.log_max_days * days, settings.log_keep)
        folder = log_dir or state_dir
        self.audit = Audit(
            None if folder is None else folder / "audit.log",
            app=name,
            retention=settings.log_audit_days * days,
            otherwise=_the_app,
            clock=clock,
        )
        self.chronicle = Chronicle(
            name,
            self.monitor,
            self.databases,
            _weakly(self.notices, default=()),
            logs=None if log_dir is None else Logs(log_dir, bounds, clock),
            leading=partial(self.audit.note_settings, settings.changed()),
            version=self.version,
            clock=clock,
        )
        self.lease = Lease(_weakly(self._lease_key, default="gone"))
        self.housekeeper = Housekeeper(name)
        self._add_chores()
        forks.watch(self)
        self._at_exit = finalize(self, _close_rooms, *self._rooms())

    @property
    def default(self) -> Database | None:
        """The app's main database."""
        return self.databases.default

    def listen(self, sender: object) -> None:
        """Write down what the signals of ``sender``, the app, tell."""
        signals.deed_done.connect(self.audit.hear, sender)
        signals.suspicious_query.connect(self._note_suspicion, sender)
        self.chronicle.listen(sender)

    def _note_suspicion(self, sender: object, *, blocked: bool = False, **details: Any) -> None:
        deed, outcome = ("statement.refuse", REFUSED) if blocked else ("statement.suspect", ALLOWED)
        self.audit.note(deed, outcome, **details)

    # --- life in a process ---

    def wake(self) -> None:
        """Start the background work of this process, at its first request; cheap to call at each."""
        if self._in_background:
            self._serves = True
            self.housekeeper.wake()

    def attend(self) -> None:
        """Look after figures and pools in a process that serves no requests.

        What one worker does for all, such as alerts and scheduled backups, is left to those that do.
        """
        if self._in_background:
            self.housekeeper.wake()

    def _add_chores(self) -> None:
        every = self.housekeeper.every
        every(FLUSH_EVERY, _weakly(self._flush), "flush figures")
        every(FLUSH_EVERY, self.audit.sweep, "write down refusals")
        every(UPKEEP_EVERY, _weakly(self._look_after_pools), "look after the pools")
        every(UPKEEP_EVERY, self.cache.sweep, "tidy the cache")
        every(CHECKPOINT_EVERY, _weakly(self._checkpoint), "checkpoint")
        every(LEASE_EVERY, _weakly(self._take_turn), "take turns at the lease", first_in=0.0)
        every(UPKEEP_EVERY, self.chronicle.sweep, "tell what is new", first_in=0.0)

    def _flush(self, now: float) -> None:
        self.monitor.sweep(self._clock())

    def _look_after_pools(self, now: float) -> None:
        for database in list(self.databases.values()):
            for upkeep in list(database.upkeeps):
                upkeep.sweep(now)

    def _checkpoint(self, now: float) -> None:
        """What commits no longer do: one worker moves the WAL into the database for all."""
        if not self.lease.held:
            return
        for database in list(self.databases.values()):
            if database.checkpoints is not None:
                database.checkpoints.sweep()

    def _is_kept(self) -> bool:
        """Whether the background work of this process goes on."""
        return self._serves and self.housekeeper.running

    def _take_turn(self, now: float) -> None:
        """What one worker does for all: alerts and scheduled jobs."""
        if not self._serves:
            return
        is_leading = self.lease.acquire()
        self.chronicle.leads(is_leading, can_be_led=not self.lease.problem)
        if is_leading:
            if self.schedule is not None:
                self.schedule.start()
            self.monitor.evaluate(self._clock())
        elif self.schedule is not None:
            self.schedule.stop()

    def _lease_key(self) -> str:
        """The database itself, not the state folder: two apps may share one database."""
        default = self.default
        identity = default.connector.identity() if default is not None and default.connector else None
        return f"file {identity}" if identity else f"app {self.name} {self.state_dir or os.getpid()}"

    # --- scheduled backups ---

    def keep_schedule(self, schedule: Schedule) -> None:
        """Have backups taken every ``backup_interval_hours`` by whoever holds the lease."""
        self.schedule = schedule
        self.child_duties.append(schedule.abandon)
        if self.settings.backup_enabled:
            # Asked more often than a backup is due, so that one that failed is tried again within the hour.
            often, timetable = min(self.settings.backup_interval_hours, 1.0), self.timetable
            schedule.add("backup", often, timetable.back_up, timetable.until_due)

    def next_backup(self) -> float | None:
        """When the next scheduled backup is due, in unix seconds; None when none is scheduled.

        Any process may ask: the schedule itself lives in the lease holder.
        """
        if self.schedule is None or not self.settings.backup_enabled:
            return None
        return self._clock() + self.timetable.until_due()

    # --- how it is ---

    def notices(self) -> list[str]:
        """Where the optimizer itself is not at its best, as sentences."""
        told = [*self.unheeded, *self.problems, *self.monitor.notices(), *self.audit.notices(), *self.tidings.notices()]
        if self.chronicle.logs is not None:
            told += self.chronicle.logs.notices()
        if self.lease.problem:
            told.append(f"no worker can be chosen for background work: {self.lease.problem}")
        if self.schedule is not None and self.schedule.problem:
            told.append(f"scheduled backups do not run: {self.schedule.problem}")
        return [*told, *flaws(self.databases.values())]

    def health(self) -> Health:
        """Whether the databases can be worked with, and what else is not as it should be."""
        return judged(self.databases.values(), self.monitor.alerts())

    # --- the end ---

    def _rooms(self) -> tuple[Any, ...]:
        rooms = self.housekeeper, self.databases, self.cache, self.monitor, self.lease, self.closers
        return *rooms, self.chronicle, self.audit

    @property
    def is_open(self) -> bool:
        """Whether it still looks after anything."""
        return self._at_exit.alive

    def close(self) -> None:
        """Stop the background work, flush the figures and close every handle; in bounded time, and once."""
        if self.schedule is not None:
            self.schedule.stop()
        self._at_exit()

    def let_go(self) -> None:
        """Before a fork, in the parent: close every handle that nobody is using; it is opened again when needed."""
        self.databases.let_go()
        self.cache.let_go()
        self.monitor.let_go()
        for duty in self.parent_duties:
            duty()

    def abandon(self) -> None:
        """After a fork, in the child: leave the parent what is the parent's; start anew at the next request."""
        self.housekeeper.abandon()
        self.lease.abandon()
        self.chronicle.abandon()
        self.monitor.abandon()
        self.cache.abandon()
        self.databases.abandon()
        for duty in self.child_duties:
            duty()


def _weakly(method: Callable[..., Any], default: Any = None) -> Callable[..., Any]:
    """``method`` without holding its object: a dropped optimizer must go, and its end is what the rooms wait for."""
    weak = WeakMethod(method)

    def call(*arguments: Any) -> Any:
        alive = weak()
        return default if alive is None else alive(*arguments)

    return call


def _the_app() -> dict[str, Any]:
    """Who acts when nobody else has said so: the app, for one of its requests or by itself."""
    cost = CURRENT.get()
    return {"by": "app"} if cost is None else {"by": "app", "request": str(cost)}


def _some(record: object, names: tuple[str, ...]) -> dict[str, float]:
    return {name: getattr(record, name) for name in names}


def _close_rooms(
    housekeeper: Housekeeper,
    databases: dict[str, Database],
    cache: Cache,
    monitor: Monitor,
    lease: Lease,
    closers: Iterable[Callable[[], None]],
    chronicle: Chronicle,
    audit: Audit,
) -> None:
    """The end of an optimizer: called by it, by the garbage collector, or when the process ends."""
    steps: list[Callable[[], object]] = [lambda: housekeeper.stop(2.0), *closers, monitor.close, cache.close]
    steps += [audit.close, chronicle.close]
    steps += [database.pool.close for database in databases.values() if database.pool is not None]
    steps += [database.lane.close for database in databases.values() if database.lane is not None]
    steps.append(lease.release)
    for step in steps:
        try:
            step()
        except Exception:
            log.exception("closing was not clean")


@cache
def _version() -> str:
    try:
        return distribution_version("Flask-DBOpt")
    except PackageNotFoundError:
        return "unknown"
