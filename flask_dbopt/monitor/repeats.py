"""Which statements one request ran again and again, however long it lasted and in however many parts it came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter

from flask_dbopt.monitor.request import Record, RequestCost
from flask_dbopt.monitor.sums import ends_transaction
from flask_dbopt.sql.fingerprint import SHORT, fingerprint

#: Endless requests that are followed at a time, and different statements of each.
MOST_PARTS, MOST_SHAPES = 100, 1_000
#: Texts whose fingerprint is at hand.
MOST_TEXTS = 5_000

_sql, _sql_and_database = itemgetter(0), itemgetter(0, 6)


@dataclass(frozen=True, slots=True)
class Repeated:
    """What one request repeated, and what those of its parts had that were counted ahead of it."""

    repeated: int = 0
    """Runs of a statement that the request had run before."""
    groups: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """How often each (fingerprint, database) ran that ran too often."""
    earlier: int = 0
    earlier_seconds: float = 0.0
    earlier_transactions: int = 0


_NOTHING = Repeated()


@dataclass(slots=True)
class _Part:
    """What was counted ahead of a request's end."""

    runs: Counter[tuple[str, str]] = field(default_factory=Counter)
    queries: int = 0
    seconds: float = 0.0
    transactions: int = 0


class Repeats:
    """Finds them. Not thread-safe: whoever folds has the lock."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, float], _Part] = {}
        self._texts: dict[str, str] = {}

    def add_part(self, cost: RequestCost) -> None:
        """Remember a part of a request that is still running."""
        part = self._parts.pop((cost.endpoint, cost.started), None) or _Part()
        runs = self._runs(cost.records)
        part.runs.update(runs if len(part.runs) < MOST_SHAPES else {key: runs[key] for key in runs if key in part.runs})
        part.queries += len(cost.records)
        part.seconds += sum(record[1] for record in cost.records if not record[4])
        part.transactions += sum(ends_transaction(record[0]) for record in cost.records)
        while len(self._parts) >= MOST_PARTS:
            del self._parts[next(iter(self._parts))]
        self._parts[cost.endpoint, cost.started] = part

    def of(self, cost: RequestCost, threshold: int) -> Repeated:
        """What a request that ended has repeated; ``threshold`` times is too often, and 0 is never."""
        records = cost.records
        if self._parts and (part := self._parts.pop((cost.endpoint, cost.started), None)) is not None:
            runs = part.runs + self._runs(records)
            queries = part.queries + len(records)
            return Repeated(
                queries - len(runs), _too_often(runs, threshold), part.queries, part.seconds, part.transactions
            )
        if len(records) < 2:
            return _NOTHING
        # All in C for the usual request: a handful of statements, none of them twice.
        shapes = set(map(self._texts.get, map(_sql, records)))
        if None in shapes:
            shapes = {self._shape(record[0]) for record in records}
        repeated = len(records) - len(shapes)
        if not repeated:
            return _NOTHING
        if not threshold or repeated < threshold - 1:
            return Repeated(repeated)
        return Repeated(repeated, _too_often(self._runs(records), threshold))

    def _runs(self, records: list[Record]) -> Counter[tuple[str, str]]:
        texts = Counter(map(_sql_and_database, records))
        runs: Counter[tuple[str, str]] = Counter()
        for (sql, database), calls in texts.items():
            runs[self._shape(sql), database] += calls
        return runs

    def _shape(self, sql: str) -> str:
        shape = self._texts.get(sql)
        if shape is None:
            shape = fingerprint(sql)
            if len(sql) <= SHORT:
                if len(self._texts) >= MOST_TEXTS:
                    self._texts.clear()
                self._texts[sql] = shape
        return shape


def _too_often(runs: Mapping[tuple[str, str], int], threshold: int) -> dict[tuple[str, str], int]:
    return {key: calls for key, calls in runs.items() if threshold and calls >= threshold}
