"""Sums that add up, over slots of time and over workers: of a statement, of an endpoint; and what is known beside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from math import inf

from flask_dbopt.monitor.histogram import Buckets, merge
from flask_dbopt.monitor.request import OUTSIDE

#: The database whose statements have their ids from their text alone.
MAIN = "default"
#: Of the endpoints that ran a statement, so many are named.
NAMED_ENDPOINTS = 10


def identify(query: str, database: str = MAIN) -> str:
    """The id of a fingerprint in one database."""
    text = query if database == MAIN else f"{database}\0{query}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


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

    __slots__ = (
        *("buckets", "cache_hits", "calls", "database", "errors", "n_plus_one"),
        *("queries", "repeated", "seconds", "transactions"),
    )

    def __init__(
        self,
        calls: int = 0,
        errors: int = 0,
        queries: int = 0,
        cache_hits: int = 0,
        seconds: float = 0.0,
        database: float = 0.0,
        transactions: int = 0,
        repeated: int = 0,
        n_plus_one: int = 0,
        buckets: Buckets | None = None,
    ) -> None:
        self.calls, self.errors, self.queries = calls, errors, queries
        self.cache_hits = cache_hits
        self.seconds, self.database = seconds, database
        self.transactions, self.repeated, self.n_plus_one = transactions, repeated, n_plus_one
        self.buckets: Buckets = {} if buckets is None else buckets

    def figures(self) -> tuple[float, ...]:
        """All but the histogram, in the order of the constructor."""
        return (
            *(self.calls, self.errors, self.queries, self.cache_hits, self.seconds, self.database),
            *(self.transactions, self.repeated, self.n_plus_one),
        )

    def merge(self, other: EndpointSum) -> None:
        """Add another's."""
        self.calls += other.calls
        self.errors += other.errors
        self.queries += other.queries
        self.cache_hits += other.cache_hits
        self.seconds += other.seconds
        self.database += other.database
        self.transactions += other.transactions
        self.repeated += other.repeated
        self.n_plus_one += other.n_plus_one
        merge(self.buckets, other.buckets)


class Shape:
    """What is known of a statement beside its sums."""

    __slots__ = ("database", "endpoints", "ends_transaction", "first_seen", "id", "last_seen", "place", "query")

    def __init__(
        self,
        id: str,  # noqa: A002 - the figures' own word
        query: str,
        first_seen: float,
        last_seen: float,
        endpoints: Iterable[str] = (),
        place: str | None = None,
        database: str = MAIN,
    ) -> None:
        self.id = id
        self.query = query
        self.first_seen = first_seen
        self.last_seen = last_seen
        self.endpoints = dict.fromkeys(endpoints)
        self.place = place
        self.database = database
        self.ends_transaction = ends_transaction(query)

    def copy(self) -> Shape:
        """The same knowledge, not shared."""
        return Shape(self.id, self.query, self.first_seen, self.last_seen, self.endpoints, self.place, self.database)

    def merge(self, other: Shape) -> None:
        """Add what another worker knows of the same statement."""
        self.first_seen = min(self.first_seen, other.first_seen)
        if other.last_seen >= self.last_seen:
            self.last_seen = other.last_seen
            self.place = other.place or self.place
        self.place = self.place or other.place
        for name in other.endpoints:
            if len(self.endpoints) >= NAMED_ENDPOINTS:
                break
            self.endpoints[name] = None


#: How work outside requests is called, where it has a name.
COMMAND, JOB = "command: ", "job: "


def is_request(endpoint: str) -> bool:
    """Whether what is booked on an endpoint was a request: a job or a command has a name too."""
    return endpoint != OUTSIDE and not endpoint.startswith((COMMAND, JOB))


def ends_transaction(query: str) -> bool:
    """Whether a statement is the end of a transaction, well or not: each has one."""
    first, *more = query[:40].upper().split()[:2] or [""]
    return first in ("COMMIT", "END") or (first == "ROLLBACK" and more != ["TO"])


Statements = dict[str, tuple[QuerySum, Shape]]
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
