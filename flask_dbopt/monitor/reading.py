"""From sums to the figures people read: milliseconds, means, quantiles, the steps of a chart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import ceil, sqrt

from flask_dbopt.monitor.figures import EndpointFigures, Point, QueryFigures
from flask_dbopt.monitor.histogram import quantiles
from flask_dbopt.monitor.schema import RESOLUTIONS
from flask_dbopt.monitor.tally import EndpointSum, QuerySum, Shape, Steps

RANKS = (0.5, 0.95, 0.99)

#: What ``queries(sort=…)`` takes; the largest comes first.
SORTS: Mapping[str, Callable[[QueryFigures], float]] = {
    "total_time": lambda figures: figures.total_exec_time,
    "mean_time": lambda figures: figures.mean_exec_time,
    "max_time": lambda figures: figures.max_exec_time,
    "p95": lambda figures: figures.p95,
    "calls": lambda figures: figures.calls,
    "rows": lambda figures: figures.rows,
    "errors": lambda figures: figures.errors,
    "last_seen": lambda figures: figures.last_seen,
}


def query_figures(query: QuerySum, shape: Shape) -> QueryFigures:
    """One statement's row. A statement that only the cache answered has no times: zeros."""
    runs = query.calls - query.cache_hits
    mean = query.seconds / runs if runs else 0.0
    variance = query.squares / runs - mean * mean if runs else 0.0
    least = query.least if runs else 0.0
    p50, p95, p99 = (max(least, min(q, query.most)) * 1e3 for q in quantiles(query.buckets, RANKS))
    return QueryFigures(
        id=shape.id,
        query=shape.query,
        calls=query.calls,
        rows=query.rows,
        errors=query.errors,
        cache_hits=query.cache_hits,
        total_exec_time=query.seconds * 1e3,
        min_exec_time=least * 1e3,
        max_exec_time=query.most * 1e3,
        mean_exec_time=mean * 1e3,
        stddev_exec_time=sqrt(max(0.0, variance)) * 1e3,
        p50=p50,
        p95=p95,
        p99=p99,
        endpoints=tuple(shape.endpoints),
        place=shape.place,
        first_seen=shape.first_seen,
        last_seen=shape.last_seen,
    )


def endpoint_figures(name: str, endpoint: EndpointSum) -> EndpointFigures:
    """One endpoint's row."""
    p50, p95, p99 = (q * 1e3 for q in quantiles(endpoint.buckets, RANKS))
    return EndpointFigures(
        endpoint=name,
        calls=endpoint.calls,
        errors=endpoint.errors,
        total_time=endpoint.seconds * 1e3,
        mean_time=endpoint.seconds / endpoint.calls * 1e3 if endpoint.calls else 0.0,
        p50=p50,
        p95=p95,
        p99=p99,
        queries=endpoint.queries,
        database_time=endpoint.database * 1e3,
        cache_hits=endpoint.cache_hits,
    )


def plan_steps(since: float, now: float, points: int) -> tuple[int, int, int]:
    """Where a chart's first step starts, how wide the steps are and how many: as fine as the slots allow."""
    since = min(since, now)
    fine = next(width for width, keep, _ in RESOLUTIONS if now - since <= keep)
    width = max(1, ceil((now - since) / fine / points)) * fine
    while True:
        base = int(since // width) * width
        count = int((now - base) // width) + 1
        if count <= points:
            return base, width, count
        width += fine


def series(base: int, width: int, count: int, steps: Steps, counters: Mapping[tuple[int, str], float]) -> list[Point]:
    """A chart's points, the quiet ones too. Slots coarser than a step fall into the step they begin in."""
    sums = [EndpointSum() for _ in range(count)]
    # Time outside requests is no part of a request's, but its statements are statements.
    for (step, _), endpoint in steps.items():
        sums[_within(step, count)].merge(endpoint)
    hits, misses = [0.0] * count, [0.0] * count
    for (step, name), amount in counters.items():
        if name == "cache.hits":
            hits[_within(step, count)] += amount
        elif name == "cache.misses":
            misses[_within(step, count)] += amount
    return [
        Point(
            start=float(base + number * width),
            requests=total.calls,
            queries=total.queries,
            errors=total.errors,
            request_ms=total.seconds * 1e3,
            p95=quantiles(total.buckets, (0.95,))[0] * 1e3 if total.calls else None,
            database_ms=total.database * 1e3,
            cache_hits=int(hits[number]),
            cache_misses=int(misses[number]),
        )
        for number, total in enumerate(sums)
    ]


def summed(parts: Iterable[EndpointSum]) -> EndpointSum:
    """Several endpoints as one."""
    total = EndpointSum()
    for part in parts:
        total.merge(part)
    return total


def _within(step: int, count: int) -> int:
    return min(max(step, 0), count - 1)
