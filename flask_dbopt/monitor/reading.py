"""From sums to the figures people read: milliseconds, means, quantiles, the steps of a chart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import zip_longest
from math import ceil, sqrt

from flask_dbopt.monitor.figures import (
    EndpointFigures,
    PlanFigures,
    Point,
    QueryDetails,
    QueryFigures,
    RepeatedStatement,
    RequestFigures,
    SlowRunFigures,
    Worker,
)
from flask_dbopt.monitor.histogram import quantiles
from flask_dbopt.monitor.remarkable import SeenPlan, ServedRequest, SlowRun
from flask_dbopt.monitor.schema import RESOLUTIONS
from flask_dbopt.monitor.sums import EndpointSum, QuerySum, Shape, Steps, is_request

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
        database=shape.database,
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
        transactions=endpoint.transactions,
        repeated=endpoint.repeated,
        n_plus_one=endpoint.n_plus_one,
    )


def request_figures(request: ServedRequest, shapes: Mapping[str, Shape]) -> RequestFigures:
    """One request's row. What it repeated is named by its id alone where the statement is forgotten."""
    return RequestFigures(
        endpoint=request.endpoint,
        method=request.method,
        status=request.status,
        at=request.at,
        time=request.seconds * 1e3,
        queries=request.queries,
        database_time=request.database * 1e3,
        transactions=request.transactions,
        repeated=request.repeated,
        n_plus_one=tuple(_repeated(name, calls, shapes.get(name)) for name, calls in request.groups),
    )


def _repeated(name: str, calls: int, shape: Shape | None) -> RepeatedStatement:
    return RepeatedStatement(name, "" if shape is None else shape.query, None if shape is None else shape.place, calls)


def details(runs: Iterable[SlowRun], plans: Iterable[SeenPlan]) -> QueryDetails:
    """Slow runs and plans as people read them, the newest first; two books may know of one plan."""
    history: list[SeenPlan] = []
    for plan in sorted(plans, key=lambda plan: plan.since):
        if history and history[-1].is_like(plan.lines):
            history[-1] = replace(history[-1], seen=max(plan.seen, history[-1].seen), lines=plan.lines)
        else:
            history.append(plan)
    return QueryDetails(
        slow_runs=tuple(
            SlowRunFigures(
                at=run.at,
                time=run.seconds * 1e3,
                rows=run.rows if run.rows >= 0 else None,
                error=run.error,
                endpoint=run.endpoint,
                place=run.place,
                stack=run.stack,
                parameters=run.parameters,
            )
            for run in sorted(runs, key=lambda run: -run.at)
        ),
        plans=tuple(
            PlanFigures(plan.since, None if later is None else later.since, plan.lines)
            for plan, later in zip_longest(history, history[1:])
        )[::-1],
    )


def farewells(lost: Sequence[Worker]) -> list[str]:
    """What is said of workers that ended without a word, the latest first."""
    if not lost:
        return []
    last = lost[0]
    when = datetime.fromtimestamp(last.heartbeat, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    seconds = max(worker.interval for worker in lost)
    if len(lost) == 1:
        return [
            f"worker {last.pid} on {last.host} ended without taking its leave, last heard of at {when}:"
            f" up to {seconds:.1f} s of its figures, its last flush interval, are lost"
        ]
    return [
        f"{len(lost)} workers ended without taking their leave within a day, the last of them worker {last.pid} on"
        f" {last.host}, last heard of at {when}: up to {seconds:.1f} s of each one's figures, its last flush interval,"
        " are lost"
    ]


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
    for (step, name), endpoint in steps.items():
        if not is_request(name):  # time outside requests is no part of a request's, but its statements are statements
            endpoint = EndpointSum(queries=endpoint.queries, cache_hits=endpoint.cache_hits, database=endpoint.database)
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
