"""One set of figures for the page, the JSON and the terminal, so that they can never disagree."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flask_dbopt.advisor.advisor import Recommendation
from flask_dbopt.backup.repository import BackupRecord
from flask_dbopt.cache.cache import CacheStats
from flask_dbopt.engines.sqlite import maintenance
from flask_dbopt.monitor.account import LOST_SHOWN
from flask_dbopt.monitor.alerts import Alert
from flask_dbopt.monitor.figures import EndpointFigures, Point, QueryFigures, RequestFigures, Worker
from flask_dbopt.monitor.lookout import LostUpdate
from flask_dbopt.pool.stats import PoolStats
from flask_dbopt.pool.writers import Holder, WriterStats, holders_of

if TYPE_CHECKING:
    from flask_dbopt.databases import Database
    from flask_dbopt.optimizer import Optimizer

T = TypeVar("T")

GUARDED = 400
"""Entries of the audit log that are looked at for what the guard found."""
POINTS = 60
"""Steps of the series."""


@dataclass(frozen=True, slots=True)
class DatabaseReport:
    """One database's share: its file, pool and backups."""

    name: str
    kind: str
    """"sqlite", "postgresql", …"""
    path: str | None
    bytes: int | None
    wal_bytes: int | None
    journal_mode: str | None
    pool: PoolStats | None
    """Summed over living workers; None where SQLAlchemy keeps its own pool and nothing was counted yet."""
    backups: tuple[BackupRecord, ...]
    """Newest first."""
    next_backup: float | None
    """Unix seconds; None when nothing is scheduled."""
    writers: WriterStats | None = None
    """The line of its writers, summed as the pool is; None where there is none."""
    holders: tuple[Holder, ...] = ()
    """Who had the write lock in that line, the longest first."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The first figures anybody asks for, over the window ``since`` … ``at``."""

    requests: int
    queries: int
    errors: int
    requests_per_second: float
    p50: float | None
    """Milliseconds a request; None without a request."""
    p95: float | None
    p99: float | None
    database_share: float | None
    """The part of request time spent in the database, 0…1."""
    queries_per_request: float | None
    cache_hit_ratio: float | None
    pool_hit_ratio: float | None


@dataclass(frozen=True, slots=True)
class Guarded:
    """Statements that the guard or the policy did not like, of one kind."""

    verdict: str
    """"suspected" (and let through), or "refused"."""
    what: str
    """The statement without literals, or what the policy was asked for."""
    endpoint: str
    place: str
    """``file:line`` of the app, where it is known."""
    reason: str
    count: int
    first_seen: float
    last_seen: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything, at one moment. Times are unix seconds, durations milliseconds, sizes bytes."""

    at: float
    since: float | None
    version: str
    workers: tuple[Worker, ...]
    """The living ones; counts of the dead are in the sums already."""
    overview: Overview
    series: tuple[Point, ...]
    queries: tuple[QueryFigures, ...]
    endpoints: tuple[EndpointFigures, ...]
    cache: CacheStats
    databases: tuple[DatabaseReport, ...]
    recommendations: tuple[Recommendation, ...]
    alerts: tuple[Alert, ...]
    """Raised ones first, then what was resolved lately."""
    notices: tuple[str, ...]
    """Where the optimizer itself is not at its best: figures in memory only, an unsafe SQLite version…"""
    lost_updates: tuple[LostUpdate, ...] = ()
    """Of each endpoint and table the latest update that may have been lost, the newest first."""
    requests: tuple[RequestFigures, ...] = ()
    """Single requests worth a look, the slowest first."""
    lost_workers: tuple[Worker, ...] = ()
    """Those that ended without a word within a day, the latest first: their last flush interval is lost."""
    guarded: tuple[Guarded, ...] = ()
    """What the guard and the policy found, the newest first, from the audit log."""


def build(optimizer: Optimizer, *, since: float | None = None, now: float | None = None) -> Report:
    """Every figure of an optimizer, summed over all workers, from ``since`` on (unix seconds; None: all).

    What a database will not tell now (it is locked, or gone) becomes a notice; the rest is told all the same.
    """
    at = time.time() if now is None else now
    monitor = optimizer.monitor
    notices = list(optimizer.notices())
    workers = tuple(monitor.workers())
    counters = monitor.counters(since)
    cache = _summed(optimizer.cache.stats(), "cache.", counters, workers)
    databases = tuple(_database(one, optimizer, counters, workers, notices) for one in optimizer.databases.values())
    recommendations: list[Recommendation] = []
    for one in optimizer.databases.values():
        if one.advisor is not None:
            recommendations += _or_notice(one.advisor.recommend, (), f"index advice for {one.name}", notices)
    series = tuple(monitor.series(since, points=POINTS))
    endpoints = tuple(monitor.endpoints(since))
    queries = tuple(monitor.queries(since=since))
    nothing: tuple[Guarded, ...] = ()
    watched = _or_notice(lambda: guarded(optimizer, counters, since), nothing, "what the guard found", notices)
    return Report(
        at=at,
        since=since,
        version=optimizer.version,
        workers=workers,
        overview=_overview(at, since, monitor.overall(since), queries, series, cache, databases),
        series=series,
        queries=queries,
        endpoints=endpoints,
        cache=cache,
        databases=databases,
        recommendations=tuple(recommendations),
        alerts=tuple(sorted(monitor.alerts(), key=lambda alert: (alert.resolved_at is not None, -alert.raised_at))),
        notices=tuple(notices),
        lost_updates=tuple(monitor.lost_updates(since)),
        requests=tuple(monitor.requests(since)),
        lost_workers=tuple(monitor.lost_workers(at - LOST_SHOWN)),
        guarded=watched,
    )


def guarded(optimizer: Optimizer, counters: Mapping[str, float], since: float | None) -> tuple[Guarded, ...]:
    """What the audit log has of refused and suspicious statements; not even opened where none was counted."""
    if not any(name == "policy.refused" or name.startswith("suspicious.") for name in counters):
        return ()
    found: dict[tuple[str, ...], Guarded] = {}
    for entry in optimizer.audit.entries(GUARDED, since=since, deed="statement."):
        told = {name: str(entry.what.get(name, "")) for name in ("sql", "what", "endpoint", "place", "source", "rule")}
        one = Guarded(
            verdict="refused" if entry.deed == "statement.refuse" else "suspected",
            what=told["sql"] or told["what"],
            endpoint=told["endpoint"],
            place=told["place"],
            reason=told["rule"] or f"a value from the request ({told['source']}) changes it",
            count=int(entry.what.get("again", 1)),
            first_seen=entry.at,
            last_seen=entry.at,
        )
        key = (one.verdict, one.what, one.endpoint, one.reason)
        newer = found.get(key)
        found[key] = one if newer is None else replace(newer, count=newer.count + one.count, first_seen=one.first_seen)
    return tuple(found.values())


def as_dict(record: Any) -> dict[str, Any]:
    """A record as JSON has it: its fields by name, and the figures that follow from them (``hit_ratio``)."""
    kind = type(record)
    derived = [name for name, value in vars(kind).items() if isinstance(value, property)]
    names = [field.name for field in fields(record)] + derived
    return {name: plain(getattr(record, name)) for name in names}


def plain(value: Any) -> Any:
    """``value`` in JSON's types. What JSON has no word for becomes text; NaN and infinity become None."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_dict(value)
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _overview(
    at: float,
    since: float | None,
    all_requests: EndpointFigures,
    queries: Sequence[QueryFigures],
    series: Sequence[Point],
    cache: CacheStats,
    databases: Sequence[DatabaseReport],
) -> Overview:
    requests, request_time = all_requests.calls, all_requests.total_time
    begun = [point.start for point in series if point.requests or point.queries]
    seconds = max(1.0, at - max(since or 0.0, min(begun, default=at)))
    pools = [one.pool for one in databases if one.pool is not None]
    loans = sum(pool.requests_num for pool in pools)
    return Overview(
        requests=requests,
        queries=sum(one.calls for one in queries),
        errors=all_requests.errors,
        requests_per_second=requests / seconds,
        p50=all_requests.p50 if requests else None,
        p95=all_requests.p95 if requests else None,
        p99=all_requests.p99 if requests else None,
        database_share=all_requests.database_time / request_time if request_time else None,
        queries_per_request=all_requests.queries / requests if requests else None,
        cache_hit_ratio=cache.hit_ratio,
        pool_hit_ratio=sum(pool.requests_immediate for pool in pools) / loans if loans else None,
    )


def _database(
    one: Database,
    optimizer: Optimizer,
    counters: Mapping[str, float],
    workers: Sequence[Worker],
    notices: list[str],
) -> DatabaseReport:
    pool = _summed(one.pool_stats(), f"pool.{one.name}.", counters, workers) if one.pools else None
    line = f"writers.{one.name}."
    writers = None if one.lane is None else _summed(one.lane.stats(), line, counters, workers)
    if writers is not None:
        longest = (worker.gauges.get(f"{line}writers_wait_max_ms", 0.0) for worker in workers)
        writers = replace(writers, writers_wait_max_ms=max(longest, default=writers.writers_wait_max_ms))
    backups: tuple[BackupRecord, ...] = ()
    next_backup: float | None = None
    if one.backups is not None:
        backups = _or_notice(one.backups.list, (), f"backups of {one.name}", notices)
        next_backup = _or_notice(optimizer.next_backup, None, "the schedule", [])
    return DatabaseReport(
        name=one.name,
        kind=one.kind,
        path=None if one.path is None else str(one.path),
        bytes=_size(one.path),
        wal_bytes=None if one.path is None else _size(one.path.with_name(f"{one.path.name}-wal")),
        journal_mode=maintenance.journal_mode(one.path) if one.kind == "sqlite" and one.path else None,
        pool=pool,
        backups=backups,
        next_backup=next_backup,
        writers=writers,
        holders=holders_of(counters, line),
    )


def _summed(here: T, prefix: str, counters: Mapping[str, float], workers: Sequence[Worker]) -> T:
    """The figures called ``prefix…`` of all workers: gauges of the living, counters of all.

    A field that neither has (a setting, such as a TTL) stays as it is ``here``, in this process; so does
    everything when nobody has recorded anything, as without a monitor.
    """
    gauges: dict[str, float] = {}
    for worker in workers:
        for name, value in worker.gauges.items():
            if name.startswith(prefix):
                gauges[name] = gauges.get(name, 0) + value
    found = {**{name: value for name, value in counters.items() if name.startswith(prefix)}, **gauges}
    if not found:
        return here
    values = {}
    for field in fields(here):  # type: ignore[arg-type]
        own = getattr(here, field.name)
        value = found.get(prefix + field.name, own)
        values[field.name] = int(value) if isinstance(own, int) and not isinstance(own, bool) else value
    return type(here)(**values)


def _or_notice(ask: Callable[[], T], otherwise: T, what: str, notices: list[str]) -> T:
    """What ``ask`` answers; where it fails, ``otherwise``, and why among the notices."""
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - one room's trouble must not hide the others' figures
        notices.append(f"{what}: {error}")
        return otherwise


def _size(path: Path | None) -> int | None:
    try:
        return None if path is None else path.stat().st_size
    except OSError:
        return None
