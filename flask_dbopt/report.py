"""One set of figures for the page, the JSON and the terminal, so that they can never disagree."""

from __future__ import annotations

from dataclasses import dataclass

from flask_dbopt.advisor.advisor import Recommendation
from flask_dbopt.backup.repository import BackupRecord
from flask_dbopt.cache.cache import CacheStats
from flask_dbopt.monitor.alerts import Alert
from flask_dbopt.monitor.figures import EndpointFigures, Point, QueryFigures, Worker
from flask_dbopt.pool.stats import PoolStats


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
    """Where the optimizer itself is not at its best: figures in memory only, no lease, an unsafe SQLite version…"""
