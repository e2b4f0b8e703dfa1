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
    """The first 12 hex digits of the SHA-256 of ``query``, after the database's name unless it is "default"."""
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
    database: str = "default"


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
    transactions: int = 0
    """Those that a statement ended, well or not."""
    repeated: int = 0
    """Runs of a statement that the same request had run before."""
    n_plus_one: int = 0
    """Requests that ran one statement DBOPT_MONITOR_N_PLUS_ONE times or more."""


@dataclass(frozen=True, slots=True)
class RepeatedStatement:
    """A statement that one request ran again and again."""

    id: str
    query: str
    place: str | None
    calls: int


@dataclass(frozen=True, slots=True)
class RequestFigures:
    """One request worth a look: among the slowest or the newest slow ones of its endpoint."""

    endpoint: str
    method: str
    status: int | None
    """None: it raised."""
    at: float
    time: float
    queries: int
    database_time: float
    transactions: int
    repeated: int
    n_plus_one: tuple[RepeatedStatement, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanFigures:
    """How a statement was run, in lines as people read them; ``until`` None: it still is."""

    since: float
    until: float | None
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SlowRunFigures:
    """One slow run of a statement, with what led to it."""

    at: float
    time: float
    rows: int | None
    error: str | None
    endpoint: str
    place: str | None
    stack: tuple[str, ...]
    """The app's own frames, the innermost first."""
    parameters: str | None
    """Only with DBOPT_MONITOR_RECORD_PARAMS."""


@dataclass(frozen=True, slots=True)
class QueryDetails:
    """What is kept of single runs of one statement, the newest first."""

    slow_runs: tuple[SlowRunFigures, ...] = ()
    plans: tuple[PlanFigures, ...] = ()


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
    """A process that flushes to the ledger."""

    id: str
    pid: int
    host: str
    started: float
    heartbeat: float
    gauges: Mapping[str, float]
    interval: float = 0.0
    """Seconds between its last two flushes: so much is lost at most when it is killed."""
    ended: float | None = None
    """When it took its leave."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One line of the workload, for whoever gives advice; ``seconds`` is all its runs' time together."""

    id: str
    query: str
    calls: int
    seconds: float
    database: str = "default"
