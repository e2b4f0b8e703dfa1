"""The figures the monitor gives, a frozen record a kind: durations in milliseconds, times in unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueryFigures:
    """One statement shape, by pg_stat_statements' names, summed over all workers.

    The times are those of runs in the database (``calls - cache_hits`` of them): an answer from the cache
    counts as a call and as a cache hit, but its time would only hide what the statement costs when it runs.
    """

    id: str
    """The first 12 hex digits of the SHA-256 of ``query``."""
    query: str
    """The fingerprint: the statement without its literals."""
    calls: int
    rows: int
    errors: int
    cache_hits: int
    total_exec_time: float
    min_exec_time: float
    max_exec_time: float
    mean_exec_time: float
    stddev_exec_time: float
    p50: float
    p95: float
    p99: float
    endpoints: tuple[str, ...]
    """Up to ten endpoints that ran it; empty for work outside any request."""
    place: str | None
    """file:line of the app's own frame, where known."""
    first_seen: float
    last_seen: float


@dataclass(frozen=True, slots=True)
class EndpointFigures:
    """What one endpoint's requests cost; ``errors`` raised or answered with status 500 and up."""

    endpoint: str
    calls: int
    errors: int
    total_time: float
    mean_time: float
    p50: float
    p95: float
    p99: float
    queries: int
    database_time: float
    cache_hits: int


@dataclass(frozen=True, slots=True)
class Point:
    """One step of a chart. ``errors`` are requests that failed; ``p95`` is None without a request."""

    start: float
    requests: int
    queries: int
    errors: int
    request_ms: float
    """Time of all requests of this step together."""
    p95: float | None
    database_ms: float
    cache_hits: int
    cache_misses: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A living process that flushes to the ledger."""

    id: str
    pid: int
    host: str
    started: float
    heartbeat: float
    gauges: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Statement:
    """One line of the workload, for whoever gives advice; ``seconds`` is all its runs' time together."""

    id: str
    query: str
    calls: int
    seconds: float
