"""Sums that add up: what ran, by statement and by endpoint, in slots of time. In memory; the ledger keeps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from math import inf
from operator import mul
from typing import Any

from flask_dbopt.monitor.histogram import Buckets, add, bucket, merge, pack
from flask_dbopt.monitor.request import Record
from flask_dbopt.sql.fingerprint import fingerprint

#: Seconds that one slot of the finest kind covers.
FINEST = 10
#: Work outside any request is booked on this endpoint, requests that matched no route on the other.
OUTSIDE, UNMATCHED = "", "(no route)"
#: Past this many shapes a statement joins the rest: a bound on memory, here and in the ledger.
MOST_STATEMENTS, MOST_ENDPOINTS = 10_000, 1_000
OTHER = "(other statements)"
#: What is kept of a statement's text, and of the endpoints that ran it.
LONGEST_TEXT, NAMED_ENDPOINTS = 10_000, 10


def identify(query: str) -> str:
    """The id of a fingerprint."""
    return hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest()[:12]


OTHER_ID = identify(OTHER)


class QuerySum:
    """One statement shape's runs. Times are of runs in the database; answers from the cache only count."""

    __slots__ = ("buckets", "cache_hits", "calls", "errors", "least", "most", "rows", "seconds", "squares")

    def __init__(
        self,
        calls: int = 0,
        rows: int = 0,
        errors: int = 0,
        cache_hits: int = 0,
        seconds: float = 0.0,
        squares: float = 0.0,
        least: float = inf,
        most: float = 0.0,
        buckets: Buckets | None = None,
    ) -> None:
        self.calls, self.rows, self.errors, self.cache_hits = calls, rows, errors, cache_hits
        self.seconds, self.squares, self.least, self.most = seconds, squares, least, most
        self.buckets: Buckets = {} if buckets is None else buckets

    def figures(self) -> tuple[float, ...]:
        """All but the histogram, in the order of the constructor."""
        return (
            *(self.calls, self.rows, self.errors, self.cache_hits),
            *(self.seconds, self.squares, self.least, self.most),
        )

    def merge(self, other: QuerySum) -> None:
        """Add another worker's, or another slot's."""
        self.calls += other.calls
        self.rows += other.rows
        self.errors += other.errors
        self.cache_hits += other.cache_hits
        self.seconds += other.seconds
        self.squares += other.squares
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)
        merge(self.buckets, other.buckets)


class EndpointSum:
    """One endpoint's requests, and the statements they ran."""

    __slots__ = ("buckets", "cache_hits", "calls", "database", "errors", "queries", "seconds")

    def __init__(
        self,
        calls: int = 0,
        errors: int = 0,
        queries: int = 0,
        cache_hits: int = 0,
        seconds: float = 0.0,
        database: float = 0.0,
        buckets: Buckets | None = None,
    ) -> None:
        self.calls, self.errors, self.queries = calls, errors, queries
        self.cache_hits = cache_hits
        self.seconds, self.database = seconds, database
        self.buckets: Buckets = {} if buckets is None else buckets

    def figures(self) -> tuple[float, ...]:
        """All but the histogram, in the order of the constructor."""
        return (
            *(self.calls, self.errors, self.queries, self.cache_hits),
            *(self.seconds, self.database),
        )

    def merge(self, other: EndpointSum) -> None:
        """Add another's."""
        self.calls += other.calls
        self.errors += other.errors
        self.queries += other.queries
        self.cache_hits += other.cache_hits
        self.seconds += other.seconds
        self.database += other.database
        merge(self.buckets, other.buckets)


class _Runs:
    """Runs of one statement that are counted together."""

    __slots__ = ("cache_hits", "durations", "errors", "rows")

    def __init__(self) -> None:
        self.durations: list[float] = []
        self.rows = self.errors = self.cache_hits = 0

    def add_to(self, query: QuerySum, total: EndpointSum) -> None:
        """Add them to their statement's sums, and to those of the endpoint that ran them."""
        durations = self.durations
        calls = len(durations) + self.cache_hits
        query.calls += calls
        total.queries += calls
        query.cache_hits += self.cache_hits
        total.cache_hits += self.cache_hits
        query.rows += self.rows
        query.errors += self.errors
        if durations:
            seconds = sum(durations)
            query.seconds += seconds
            total.database += seconds
            query.squares += sum(map(mul, durations, durations))
            query.least = min(query.least, min(durations))
            query.most = max(query.most, max(durations))
            add(query.buckets, durations)


class Shape:
    """What is known of a statement beside its sums."""

    __slots__ = ("endpoints", "first_seen", "id", "last_seen", "place", "query")

    def __init__(
        self,
        id: str,  # noqa: A002 - the figures' own word
        query: str,
        first_seen: float,
        last_seen: float,
        endpoints: Iterable[str] = (),
        place: str | None = None,
    ) -> None:
        self.id = id
        self.query = query
        self.first_seen = first_seen
        self.last_seen = last_seen
        self.endpoints = dict.fromkeys(endpoints)
        self.place = place

    def copy(self) -> Shape:
        """The same knowledge, not shared."""
        return Shape(self.id, self.query, self.first_seen, self.last_seen, self.endpoints, self.place)

    def merge(self, other: Shape) -> None:
        """Add what another worker knows of the same statement."""
        self.first_seen = min(self.first_seen, other.first_seen)
        self.last_seen = max(self.last_seen, other.last_seen)
        self.place = self.place or other.place
        for name in other.endpoints:
            if len(self.endpoints) >= NAMED_ENDPOINTS:
                break
            self.endpoints[name] = None


Statements = dict[str, tuple[QuerySum, Shape]]
Rows = list[tuple[Any, ...]]


class Tally:
    """What one process counted since its last flush."""

    def __init__(self) -> None:
        self.queries: dict[tuple[int, str], QuerySum] = {}
        self.endpoints: dict[tuple[int, str], EndpointSum] = {}
        self.counters: dict[tuple[int, str], float] = {}
        self.shapes: dict[str, Shape] = {}
        self._cells: dict[str, tuple[QuerySum, Shape]] = {}
        self._slot = -1

    def __bool__(self) -> bool:
        return bool(self.queries or self.endpoints or self.counters)

    def statements(self, records: Iterable[Record], endpoint: str, now: float, slow: float) -> list[Record]:
        """Count runs of statements at ``now``; returns those that took ``slow`` seconds and more."""
        total = self._endpoint(endpoint, now)
        if (slot := _slot(now)) != self._slot:
            self._slot = slot
            self._cells.clear()
        slow_ones: list[Record] = []
        runs: dict[str, _Runs] = {}
        for record in records:
            sql, seconds, rows, error, cached, _, _ = record
            alike = runs.get(sql)
            if alike is None:
                alike = runs[sql] = _Runs()
            if cached:
                alike.cache_hits += 1
            else:
                alike.durations.append(seconds)
                if seconds >= slow:
                    slow_ones.append(record)
            if rows > 0:
                alike.rows += rows
            if error is not None:
                alike.errors += 1
        for sql, alike in runs.items():
            query, shape = self._cells.get(sql) or self._cell(sql, slot, now)
            alike.add_to(query, total)
            shape.last_seen = now
            if endpoint != OUTSIDE and endpoint not in shape.endpoints and len(shape.endpoints) < NAMED_ENDPOINTS:
                shape.endpoints[endpoint] = None
        return slow_ones

    def request(self, endpoint: str, seconds: float, failed: bool, now: float) -> None:
        """Count one finished request."""
        total = self._endpoint(endpoint, now)
        total.calls += 1
        total.errors += failed
        total.seconds += seconds
        number = bucket(seconds)
        total.buckets[number] = total.buckets.get(number, 0) + 1

    def count(self, name: str, amount: float, now: float) -> None:
        """Add to a counter."""
        key = (_slot(now), name)
        self.counters[key] = self.counters.get(key, 0) + amount

    def queries_since(self, since: float) -> Statements:
        """The sums of the slots that reach beyond ``since``."""
        found: Statements = {}
        for (slot, query_id), query in self.queries.items():
            if slot + FINEST > since:
                if query_id not in found:
                    found[query_id] = (QuerySum(), self.shapes[query_id])
                found[query_id][0].merge(query)
        return found

    def endpoints_since(self, since: float, base: int = 0, width: int = 1 << 60) -> Steps:
        """The sums by endpoint and by step of ``width`` seconds from ``base`` on: one step unless told."""
        found: Steps = {}
        for (slot, name), endpoint in self.endpoints.items():
            if slot + FINEST > since:
                found.setdefault(((slot - base) // width, name), EndpointSum()).merge(endpoint)
        return found

    def counters_since(self, since: float, base: int = 0, width: int = 1 << 60) -> dict[tuple[int, str], float]:
        """The counters in the same manner."""
        found: dict[tuple[int, str], float] = {}
        for (slot, name), amount in self.counters.items():
            if slot + FINEST > since:
                key = ((slot - base) // width, name)
                found[key] = found.get(key, 0) + amount
        return found

    def rows(self) -> tuple[Rows, Rows, Rows, Rows]:
        """Everything as the ledger's tables hold it: statements, then slots of queries, endpoints, counters."""
        shapes = self.shapes.values()
        return (
            [(s.id, s.query, s.first_seen, s.last_seen, s.place, json.dumps(list(s.endpoints))) for s in shapes],
            [(FINEST, *key, *query.figures(), pack(query.buckets)) for key, query in self.queries.items()],
            [(FINEST, *key, *total.figures(), pack(total.buckets)) for key, total in self.endpoints.items()],
            [(FINEST, *key, amount) for key, amount in self.counters.items()],
        )

    def _endpoint(self, name: str, now: float) -> EndpointSum:
        key = (_slot(now), name)
        total = self.endpoints.get(key)
        if total is None:
            if len(self.endpoints) >= MOST_ENDPOINTS:
                key = (key[0], UNMATCHED)
            total = self.endpoints.setdefault(key, EndpointSum())
        return total

    def _cell(self, sql: str, slot: int, now: float) -> tuple[QuerySum, Shape]:
        text = fingerprint(sql)
        query_id = identify(text)
        shape = self.shapes.get(query_id)
        if shape is None:
            if len(self.shapes) >= MOST_STATEMENTS:
                text, query_id = OTHER, OTHER_ID
            if len(text) > LONGEST_TEXT:
                text = text[:LONGEST_TEXT] + " …"
            shape = self.shapes.setdefault(query_id, Shape(query_id, text, now, now))
        cell = (self.queries.setdefault((slot, query_id), QuerySum()), shape)
        if len(sql) <= LONGEST_TEXT:
            if len(self._cells) >= MOST_STATEMENTS // 2:
                self._cells.clear()
            self._cells[sql] = cell
        return cell


Steps = dict[tuple[int, str], EndpointSum]


def merge_statements(into: Statements, other: Statements) -> None:
    """Add one book's statements to another's; neither argument's sums are shared afterwards."""
    for query_id, (query, shape) in other.items():
        if query_id in into:
            into[query_id][0].merge(query)
            into[query_id][1].merge(shape)
        else:
            into[query_id] = (query, shape.copy())


def merge_steps(into: Steps, other: Steps) -> None:
    """The same for endpoints."""
    for key, endpoint in other.items():
        if key in into:
            into[key].merge(endpoint)
        else:
            into[key] = endpoint


def merged_names(one: str, other: str) -> str:
    """Two JSON lists of endpoints as one."""
    if one == other:
        return one
    return json.dumps(list(dict.fromkeys(json.loads(one) + json.loads(other)))[:NAMED_ENDPOINTS])


def _slot(now: float) -> int:
    return int(now // FINEST) * FINEST
