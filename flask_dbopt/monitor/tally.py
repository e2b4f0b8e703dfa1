"""What one process counted since its last flush: what ran, by statement and by endpoint, in slots of time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from operator import mul
from typing import Any

from flask_dbopt.monitor.histogram import add, pack
from flask_dbopt.monitor.remarkable import Remarks
from flask_dbopt.monitor.request import OUTSIDE, Record
from flask_dbopt.monitor.sums import (
    NAMED_ENDPOINTS,
    EndpointSum,
    QuerySum,
    Shape,
    Statements,
    Steps,
    identify,
)
from flask_dbopt.sql.fingerprint import SHORT, fingerprint

#: Seconds that one slot of the finest kind covers.
FINEST = 10
#: Requests that matched no route are booked on this endpoint.
UNMATCHED = "(no route)"
#: Past this many shapes a statement joins the rest: a bound on memory, here and in the ledger.
MOST_STATEMENTS, MOST_ENDPOINTS = 10_000, 1_000
OTHER = "(other statements)"
OTHER_ID = identify(OTHER)
#: What is kept of a statement's text.
LONGEST_TEXT = 10_000
#: Texts, of up to ``SHORT`` characters, whose place in the sums is remembered for as long as a slot lasts.
MOST_TEXTS = 5_000

Rows = list[tuple[Any, ...]]


class _Runs:
    """Runs of one statement that are counted together."""

    __slots__ = ("cache_hits", "durations", "errors", "rows")

    def __init__(self) -> None:
        self.durations: list[float] = []
        self.rows = self.errors = self.cache_hits = 0

    def add_to(self, query: QuerySum, total: EndpointSum) -> int:
        """Add them to their statement's sums, and to those of the endpoint that ran them; how many they are."""
        durations = self.durations
        calls = len(durations) + self.cache_hits
        query.calls += calls
        total.queries += calls
        if self.cache_hits:
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
        return calls


class Tally:
    """Sums and remarks. ``places``: where in the app the texts of statements come from, as far as known."""

    def __init__(self, places: Mapping[str, str] | None = None) -> None:
        self.queries: dict[tuple[int, str], QuerySum] = {}
        self.endpoints: dict[tuple[int, str], EndpointSum] = {}
        self.counters: dict[tuple[int, str], float] = {}
        self.shapes: dict[str, Shape] = {}
        self.remarks = Remarks()
        self._places = {} if places is None else places
        self._cells: dict[str, dict[str, tuple[QuerySum, Shape]]] = {}
        self._slot = -1

    def __bool__(self) -> bool:
        return bool(self.queries or self.endpoints or self.counters or self.remarks)

    def statements(self, records: Iterable[Record], endpoint: str, now: float, slow: float) -> list[Record]:
        """Count runs of statements at ``now``; returns those that took ``slow`` seconds and more."""
        total = self._endpoint(endpoint, now)
        if (slot := _slot(now)) != self._slot:
            self._slot = slot
            self._cells.clear()
        slow_ones: list[Record] = []
        everywhere: dict[str, dict[str, _Runs]] = {}
        runs: dict[str, _Runs] = {}
        latest: object = None
        for record in records:
            sql, seconds, rows, error, cached, _, database = record
            if database is not latest:
                runs = everywhere.setdefault(database, {})
                latest = database
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
        for database, runs in everywhere.items():
            cells = self._cells.setdefault(database, {})
            for sql, alike in runs.items():
                query, shape = cells.get(sql) or self._cell(sql, database, slot, now)
                calls = alike.add_to(query, total)
                shape.last_seen = now
                if shape.ends_transaction:
                    total.transactions += calls
                if endpoint not in shape.endpoints and endpoint != OUTSIDE and len(shape.endpoints) < NAMED_ENDPOINTS:
                    shape.endpoints[endpoint] = None
        return slow_ones

    def requests(
        self, endpoint: str, durations: Sequence[float], errors: int, now: float, repeated: int = 0, n_plus_one: int = 0
    ) -> None:
        """Count finished requests: ``repeated`` runs were not the first of their statement in their request."""
        total = self._endpoint(endpoint, now)
        total.calls += len(durations)
        total.errors += errors
        total.seconds += sum(durations)
        total.repeated += repeated
        total.n_plus_one += n_plus_one
        add(total.buckets, durations)

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
        """The sums as the ledger's tables hold them: statements, then slots of queries, endpoints, counters."""
        return (
            [
                (s.id, s.query, s.first_seen, s.last_seen, s.place, json.dumps(list(s.endpoints)), s.database)
                for s in self.shapes.values()
            ],
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

    def _cell(self, sql: str, database: str, slot: int, now: float) -> tuple[QuerySum, Shape]:
        text = fingerprint(sql)
        query_id = identify(text, database)
        shape = self.shapes.get(query_id)
        if shape is None:
            if len(self.shapes) >= MOST_STATEMENTS:
                text, query_id = OTHER, OTHER_ID
            if len(text) > LONGEST_TEXT:
                text = text[:LONGEST_TEXT] + " …"
            whose = "" if query_id == OTHER_ID else database
            shape = self.shapes.setdefault(query_id, Shape(query_id, text, now, now, database=whose))
        shape.place = self._places.get(sql) or shape.place
        cell = (self.queries.setdefault((slot, query_id), QuerySum()), shape)
        if len(sql) <= SHORT:
            cells = self._cells.setdefault(database, {})
            if len(cells) >= MOST_TEXTS:
                cells.clear()
            cells[sql] = cell
        return cell


def _slot(now: float) -> int:
    return int(now // FINEST) * FINEST
