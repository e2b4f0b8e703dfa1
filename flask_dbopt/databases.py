"""Which databases an app has, and the windows and rooms that each of them opens."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakSet, WeakValueDictionary, ref

from flask_dbopt.advisor.advisor import Advisor
from flask_dbopt.backup.backups import Backups
from flask_dbopt.cache.cache import Cache, Shelf
from flask_dbopt.deeds import REFUSED
from flask_dbopt.engines.postgresql.planner import PostgreSQLPlanner
from flask_dbopt.engines.protocol import Connector, Footprint, Planner, Watcher
from flask_dbopt.engines.sqlite.checkpoints import Checkpoints
from flask_dbopt.engines.sqlite.connector import SQLiteConnector, path_of
from flask_dbopt.engines.sqlite.planner import SQLitePlanner
from flask_dbopt.engines.sqlite.snapshotter import SQLiteSnapshotter
from flask_dbopt.engines.sqlite.tuning import Tuning
from flask_dbopt.engines.sqlite.turns import Turns
from flask_dbopt.engines.sqlite.watcher import SQLiteWatcher
from flask_dbopt.errors import ConfigurationError
from flask_dbopt.monitor.monitor import Monitor
from flask_dbopt.monitor.request import CURRENT, RequestCost
from flask_dbopt.pool.lane import Lane
from flask_dbopt.pool.pool import Pool
from flask_dbopt.pool.stats import PoolStats
from flask_dbopt.pool.upkeep import Upkeep
from flask_dbopt.settings import Settings
from flask_dbopt.signals import Emit

log = logging.getLogger("flask_dbopt.monitoring")

#: Which optimizer of this process owns a file, for the drop-in module: by absolute path.
_owners: WeakValueDictionary[str, Database] = WeakValueDictionary()


class Counted(Protocol):
    """A pool as far as its figures go."""

    def stats(self) -> PoolStats: ...


@dataclass(eq=False)
class Database:
    """One database and the windows that its engine has open; None where an engine has no such window."""

    name: str
    kind: str
    """SQLAlchemy's word: "sqlite", "postgresql", …"""
    path: Path | None = None
    road: Any = None
    connector: SQLiteConnector | None = None
    lane: Lane | None = None
    turns: Turns | None = None
    checkpoints: Checkpoints | None = None
    pool: Pool | None = None
    upkeep: Upkeep | None = None
    watcher: Watcher | None = None
    shelf: Shelf | None = None
    planner: Planner | None = None
    advisor: Advisor | None = None
    backups: Backups | None = None
    pools: WeakSet[Counted] = field(default_factory=WeakSet)
    """Every pool on this database, of raw connections and of engines, for as long as somebody has it."""
    upkeeps: WeakSet[Upkeep] = field(default_factory=WeakSet)
    """Who looks after those that are ours."""

    def pool_stats(self) -> PoolStats:
        """Its pools' figures, summed; one that nobody has asked yet allows nothing beside one that is in use."""
        every = [pool.stats() for pool in list(self.pools)]
        in_use = [stats for stats in every if stats.requests_num]
        return PoolStats.total(in_use or (every if self.pool is None else [self.pool.stats()]))

    @property
    def engine_pool(self) -> Pool | None:
        """What an engine's connections come from, the first that is ours; not the pool of raw ones."""
        ours = (pool for pool in list(self.pools) if isinstance(pool, Pool) and pool is not self.pool)
        return next(ours, None)


class Databases(dict[str, Database]):
    """An app's databases by name, in the order in which they were found."""

    def __init__(
        self,
        settings: Settings,
        monitor: Monitor,
        cache: Cache,
        *,
        backup_dir: Path,
        build_road: Callable[[Database], Any],
        emit: Emit,
        clock: Callable[[], float] = time.time,
        is_kept: Callable[[], bool] = lambda: False,
    ) -> None:
        """``is_kept()``: whether somebody comes by in the background, to checkpoint among other things."""
        super().__init__()
        self._settings = settings
        self._monitor = monitor
        self._cache = cache
        self._backup_dir = backup_dir
        self._build_road = build_road
        self._emit = emit
        self._clock = clock
        self._is_kept = is_kept
        self._told = 0.0
        self.finding = threading.RLock()
        """One thread at a time finds what there is: an app's first requests come together."""
        monitor.see_by(self)

    @property
    def default(self) -> Database | None:
        """The app's main database: the one called "default", else its first."""
        return self.get("default") or next(iter(self.values()), None)

    def named(self, name: str | None = None) -> Database:
        """The database called ``name``; ConfigurationError when there is none."""
        found = self.default if name is None else self.get(name)
        if found is None:
            known = ", ".join(self) or "none"
            raise ConfigurationError(
                f"there is no database {name or 'default'!r}; known: {known}",
                hint="set DBOPT_DATABASE, or DBOPT_DATABASES for more than one",
            )
        return found

    def explained(self, name: str, sql: str) -> tuple[str, ...]:
        """How a database runs a statement, as people read it; () where it cannot say. Nothing is run."""
        advisor = self[name].advisor if name in self else None
        return () if advisor is None or advisor.explain(sql).problem else advisor.explained(sql)

    def footprint(self, database: str, sql: str) -> Footprint | None:
        """What a statement touches in one of them; None where that cannot be told."""
        watcher = self[database].watcher if database in self else None
        return None if watcher is None else watcher.footprint(sql)

    def autocommits(self, database: str) -> bool:
        """Whether the app has connections to it that are in no transaction unless it begins one."""
        connector = self[database].connector if database in self else None
        return connector is not None and connector.autocommits

    def let_go(self) -> None:
        """Before a fork: no handle that nobody uses."""
        for database in list(self.values()):
            if database.pool is not None:
                database.pool.let_go()

    def abandon(self) -> None:
        """After it, in the child: locks and connections of its own."""
        self.finding = threading.RLock()
        for database in self.values():
            if database.pool is not None:
                database.pool.abandon()
            if database.lane is not None:
                database.lane.abandon()
            if database.advisor is not None:
                database.advisor.abandon()

    def adopt(self, name: str, place: str | os.PathLike[str]) -> Database:
        """Take care of a SQLite file (a path or ``file:`` URI); one that is known already keeps its name."""
        path = path_of(os.fspath(place))
        known = next((each for each in self.values() if path and str(each.path) == path), None)
        if known is not None:
            return known
        database = Database(name=self._free(name), kind="sqlite", path=Path(path) if path else None)
        settings = self._settings
        if path and settings.enabled:
            self._open_windows(database, path)
        database.road = self._build_road(database)
        database.connector = SQLiteConnector(
            place,
            Tuning(settings.sqlite_pragmas),
            database.road,
            busy_timeout=settings.sqlite_busy_timeout,
            turns=database.turns,
            wal_limit=self._wal_limit,
            policy=settings.sqlite_policy if settings.enabled else None,
            statement_timeout=settings.monitor_statement_timeout if settings.enabled else None,
            refused=self._note_refusal,
        )
        if path and settings.enabled:
            database.pool, database.upkeep = self.build_pool(database, database.connector)
            _owners[path] = _owners[os.path.realpath(path)] = database
        return self._enter(database)

    def adopt_foreign(self, name: str, kind: str, connect: Callable[[], Any] | None = None) -> Database:
        """Take care of what a server runs: its statements are timed and, on PostgreSQL, explained.

        ``connect()`` opens a connection of the app's driver, beside every pool.
        """
        database = Database(name=self._free(name), kind=kind)
        if kind == "postgresql" and connect is not None and self._settings.enabled:
            self._open_planner(database, PostgreSQLPlanner(connect))
        database.road = self._build_road(database)
        return self._enter(database)

    def _free(self, name: str) -> str:
        """``name``, or the next that is not taken."""
        free, number = name, 2
        while free in self:
            free, number = f"{name}-{number}", number + 1
        return free

    def _enter(self, database: Database) -> Database:
        self[database.name] = database
        self._monitor.source(
            f"pool.{database.name}",
            counters=lambda: database.pool_stats().counters(),
            gauges=lambda: database.pool_stats().gauges(),
        )
        lane = database.lane
        if lane is not None:
            self._monitor.source(
                f"writers.{database.name}", counters=lane.counters, gauges=lambda: lane.stats().gauges()
            )
        return database

    def _wal_limit(self) -> int:
        return self._settings.sqlite_wal_limit if self._is_kept() else 0

    def _note_refusal(self, rule: str, what: str) -> None:
        """The policy refused a statement."""
        cost = CURRENT.get()
        endpoint = "" if cost is None else cost.endpoint
        self._monitor.count("policy.refused")
        now = self._clock()
        if abs(now - self._told) >= 1.0:  # anybody may cause them by the thousand; the audit log sums them up
            self._told = now
            log.warning("refused: %s, %s%s", what, rule, f" ({endpoint})" if endpoint else "")
        self._emit(
            "deed_done",
            deed="statement.refuse",
            outcome=REFUSED,
            details={"rule": rule, "what": what, "endpoint": endpoint},
        )

    def _open_windows(self, database: Database, path: str) -> None:
        settings = self._settings
        weak = ref(database)

        def collect_dropped() -> None:
            alive = weak()
            if alive is not None and alive.pool is not None:
                alive.pool.collect_dropped()

        lane = database.lane = Lane(database.name, look=collect_dropped)
        database.turns = Turns(
            lane, who=borrower, wants=changing_request if settings.sqlite_transactions == "immediate" else None
        )
        database.checkpoints = Checkpoints(Path(path), lane, settings.sqlite_wal_limit)
        watcher = database.watcher = SQLiteWatcher(path)
        database.shelf = self._cache.shelf(database.name, watcher)
        self._open_planner(database, SQLitePlanner(path))
        database.backups = Backups(
            database.name,
            SQLiteSnapshotter(path),
            self._backup_dir,
            retention_days=settings.backup_retention_days,
            keep_weekly=settings.backup_keep_weekly,
            keep_monthly=settings.backup_keep_monthly,
            compression=settings.backup_compression,
            verify=settings.backup_verify,
            emit=self._emit,
            clock=self._clock,
        )

    def _open_planner(self, database: Database, planner: Planner) -> None:
        settings = self._settings
        database.planner = planner
        database.advisor = Advisor(
            planner,
            partial(self._monitor.workload, database=database.name),
            min_rows=settings.advisor_min_rows,
            min_calls=settings.advisor_min_calls,
            min_seconds=settings.advisor_min_seconds,
            database=database.name,
            emit=self._emit,
        )

    def build_pool(
        self, database: Database, connector: Connector, *, most_idle: int | None = None, **bounds: Any
    ) -> tuple[Pool, Upkeep]:
        """One more pool on ``database``, as the settings want it but for ``bounds``, and who looks after it.

        Whoever asks has to keep both; the database only knows of them. ``most_idle`` None: as many as may be lent.
        """
        settings = self._settings
        wanted: dict[str, Any] = {
            "minimum": settings.pool_min,
            "maximum": settings.pool_max,
            "timeout": settings.pool_timeout,
            "max_waiting": settings.pool_max_waiting,
            "max_lifetime": settings.pool_max_lifetime,
            "check_after": settings.pool_check_after,
        }
        wanted.update(bounds)
        most_idle = wanted["maximum"] if most_idle is None else most_idle
        wanted["minimum"] = min(wanted["minimum"], most_idle)
        pool = Pool(database.name, connector, **wanted, emit=self._emit)
        pool.stock.resize(most_idle)
        upkeep = Upkeep(
            pool,
            health_interval=settings.pool_health_interval,
            idle_timeout=settings.pool_idle_timeout,
            leak_after=settings.pool_leak_after,
            reconnect_timeout=settings.pool_reconnect_timeout,
        )
        database.pools.add(pool)
        database.upkeeps.add(upkeep)
        return pool, upkeep


#: Requests with these methods change nothing (RFC 9110, 9.2.1). A job has none: it begins as the app has it.
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", ""})


def borrower() -> str:
    """Who asks, for those who wait: the request or job, or the thread's name."""
    cost = CURRENT.get()
    return threading.current_thread().name if cost is None else str(cost)


def changing_request() -> RequestCost | None:
    """The request that is being served in this context, if its method is to change something."""
    cost = CURRENT.get()
    return None if cost is None or cost.method in _SAFE else cost


def owner_of(place: str) -> Database | None:
    """The database of this process that a path or ``file:`` URI names, if an optimizer looks after it."""
    path = path_of(place)
    return (_owners.get(path) or _owners.get(os.path.realpath(path))) if path else None
