"""Totals that only grow: everything ever counted, kept beside the slots, which are added up and dropped.

Whoever scrapes counters takes one that fell for one that began anew. So these are of the ledger alone, to which
workers only add: to count what one worker has not flushed yet would make them fall when the next worker is asked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import TYPE_CHECKING

from flask_dbopt.monitor import schema
from flask_dbopt.monitor.histogram import LAST, Buckets, middle
from flask_dbopt.monitor.sums import EndpointSum, QuerySum
from flask_dbopt.monitor.tally import Tally

if TYPE_CHECKING:
    import sqlite3

    from flask_dbopt.monitor.ledger import Ledger

#: Upper ends of the classes of durations, in seconds. One that is no more in this list may still be in a ledger.
BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, inf)
#: Endpoints that have totals of their own, for good: the first that came. Those after them share one.
MOST_ENDPOINTS, OTHERS = 200, "(other endpoints)"

Times = dict[float, int]
"""How many took up to a bound and more than the one before."""


@dataclass(frozen=True, slots=True)
class EndpointTotal:
    """One endpoint since the ledger began; seconds. ``endpoint`` "" is work outside any request."""

    endpoint: str
    calls: int
    errors: int
    queries: int
    cache_hits: int
    seconds: float
    database: float
    times: Mapping[float, int]


@dataclass(frozen=True, slots=True)
class StatementTotal:
    """One statement shape since it was first seen; seconds."""

    id: str
    query: str
    calls: int
    rows: int
    errors: int
    cache_hits: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything that was flushed by all workers, the dead ones too. Nothing in it ever falls but by starting anew."""

    endpoints: tuple[EndpointTotal, ...]
    statements: tuple[StatementTotal, ...]
    """The costliest."""
    query_times: Mapping[float, int]
    """Runs in the database, of all statements."""
    counters: Mapping[str, float]


def add(connection: sqlite3.Connection, tally: Tally) -> None:
    """Add what a worker counted; inside the transaction, and after its statements became known."""
    endpoints: dict[str, EndpointSum] = {}
    known = {name for (name,) in connection.execute("SELECT endpoint FROM total_endpoint")}
    for (_, name), endpoint in tally.endpoints.items():
        if name not in known:
            name = name if len(known) < MOST_ENDPOINTS else OTHERS
            known.add(name)
        endpoints.setdefault(name, EndpointSum()).merge(endpoint)
    times: list[tuple[str, str, float, int]] = []
    for name, endpoint in endpoints.items():
        times += [("request", name, *each) for each in _times(endpoint.buckets).items()]
    runs: Buckets = {}
    for query in tally.queries.values():
        for number, count in query.buckets.items():
            runs[number] = runs.get(number, 0) + count
    times += [("query", "", *each) for each in _times(runs).items()]
    connection.executemany(
        schema.ADD_TO_ENDPOINT,
        ((name, t.calls, t.errors, t.queries, t.cache_hits, t.seconds, t.database) for name, t in endpoints.items()),
    )
    connection.executemany(
        schema.ADD_TO_STATEMENT, (_statement(each, query) for (_, each), query in tally.queries.items())
    )
    connection.executemany(schema.ADD_TO_TIME, times)
    connection.executemany(schema.ADD_TO_COUNTER, ((name, amount) for (_, name), amount in tally.counters.items()))


def read(ledger: Ledger, statements: int) -> Totals:
    """All of them, and of the statements the ``statements`` costliest."""
    times: dict[tuple[str, str], Times] = {}
    for what, name, bound, count in ledger.rows("SELECT * FROM total_time"):
        times.setdefault((what, name), {})[bound] = count
    return Totals(
        endpoints=tuple(
            EndpointTotal(*(*row, times.get(("request", row[0]), {})))
            for row in ledger.rows("SELECT * FROM total_endpoint ORDER BY endpoint")
        ),
        statements=tuple(StatementTotal(*row) for row in ledger.rows(schema.READ_COSTLIEST, (statements,))),
        query_times=times.get(("query", ""), {}),
        counters=dict(ledger.rows("SELECT * FROM total_counter ORDER BY name")),
    )


def _statement(query_id: str, query: QuerySum) -> tuple[str, int, int, int, int, float]:
    return query_id, query.calls, query.rows, query.errors, query.cache_hits, query.seconds


def _times(buckets: Mapping[int, int]) -> Times:
    """A histogram by the bounds; a bucket that lies across one goes where its middle is."""
    found: Times = {}
    bounds = _bounds()
    for number, count in buckets.items():
        bound = bounds[number]
        found[bound] = found.get(bound, 0) + count
    return found


@cache
def _bounds() -> tuple[float, ...]:
    """The bound of each bucket."""
    return tuple(BOUNDS[bisect_left(BOUNDS, middle(number))] for number in range(LAST + 1))


def cumulated(times: Mapping[float, int], bounds: Iterable[float] = BOUNDS) -> list[tuple[float, int]]:
    """How many took up to each bound: what Prometheus calls a histogram."""
    return [(bound, sum(count for each, count in times.items() if each <= bound)) for bound in bounds]
