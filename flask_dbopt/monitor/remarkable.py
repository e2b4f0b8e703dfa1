"""What is kept of single requests and slow runs beside the sums: a few of each, short, and no values unasked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask_dbopt.monitor.request import Sample

#: Of one statement so many slow runs are kept, of one endpoint so many requests: the slowest and the newest.
SLOWEST, NEWEST = 2, 3
#: Of all statements, and of all endpoints, together.
MOST_KEPT = 500
#: Plans of one statement that are kept: the present one and those before it.
PLANS = 5

#: How much is kept of a stack, a plan and of parameters: entries, and characters of each.
STACK_LINES, PLAN_LINES, VALUES, LONGEST = 20, 30, 50, 200
LONGEST_VALUE = 100
#: A named parameter that is called so is not shown, whatever the settings.
_SECRET = re.compile(r"pass|secret|token|api_?key|credential|salt", re.IGNORECASE)
_FIGURES = re.compile(r"\d[\d,.]*")


@dataclass(frozen=True, slots=True)
class SlowRun:
    """One run that took DBOPT_MONITOR_SLOW_SECONDS or more, as the ledger has it; ``seconds`` is its time."""

    statement: str
    at: float
    seconds: float
    rows: int
    error: str | None
    endpoint: str
    place: str | None
    stack: tuple[str, ...]
    parameters: str | None

    def row(self) -> tuple[Any, ...]:
        """As the ledger's table holds it."""
        first = (self.statement, self.at, self.seconds, self.rows, self.error, self.endpoint, self.place)
        return (*first, json.dumps(self.stack), self.parameters)

    @classmethod
    def of(cls, row: Sequence[Any]) -> SlowRun:
        """Back from the table."""
        return cls(*(*row[:7], tuple(json.loads(row[7])), row[8]))


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """One request, as the ledger has it; ``groups``: the statements it repeated, as (id, times)."""

    endpoint: str
    at: float
    method: str
    status: int | None
    seconds: float
    queries: int
    database: float
    transactions: int
    repeated: int
    groups: tuple[tuple[str, int], ...] = ()

    def row(self) -> tuple[Any, ...]:
        """As the ledger's table holds it."""
        first = (self.endpoint, self.at, self.method, self.status, self.seconds, self.queries, self.database)
        return (*first, self.transactions, self.repeated, json.dumps(self.groups))

    @classmethod
    def of(cls, row: Sequence[Any]) -> ServedRequest:
        """Back from the table."""
        return cls(*(*row[:9], tuple((query, times) for query, times in json.loads(row[9]))))


@dataclass(frozen=True, slots=True)
class SeenPlan:
    """How a statement was run from ``since`` on, and was still at ``seen``: lines as people read them."""

    statement: str
    since: float
    seen: float
    lines: tuple[str, ...]

    def row(self) -> tuple[Any, ...]:
        """As the ledger's table holds it."""
        return self.statement, self.since, self.seen, json.dumps(self.lines)

    @classmethod
    def of(cls, row: Sequence[Any]) -> SeenPlan:
        """Back from the table."""
        return cls(row[0], row[1], row[2], tuple(json.loads(row[3])))

    def is_like(self, lines: Iterable[str]) -> bool:
        """Whether it is the same plan: how many rows a table has is told, and changes nothing."""
        return [_FIGURES.sub("#", line) for line in self.lines] == [_FIGURES.sub("#", line) for line in lines]


@dataclass(slots=True)
class Remarks:
    """What one process has to say of single runs and requests since its last flush."""

    runs: list[SlowRun] = field(default_factory=list)
    requests: dict[tuple[str, bool], ServedRequest] = field(default_factory=dict)
    """The slowest of each endpoint, and the slowest of those that repeated a statement too often."""
    plans: list[SeenPlan] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.runs or self.requests or self.plans)


def slow_run(sample: Sample, statement: str, place: str | None, at: float, *, values: bool) -> SlowRun:
    """A sample as it is kept; its parameters only with ``values``."""
    _, seconds, rows, error, *_ = sample.record
    return SlowRun(
        statement,
        at,
        seconds,
        rows,
        error,
        sample.endpoint,
        place,
        tuple(_short(line, LONGEST) for line in sample.stack[:STACK_LINES]),
        shown_values(sample.parameters) if values and sample.parameters is not None else None,
    )


def shown_values(parameters: object) -> str:
    """Parameters as people may read them: each short, not too many, and none whose name says it is a secret."""
    try:
        if isinstance(parameters, Mapping):
            named = list(parameters.items())[:VALUES]
            shown = [f"{name}={'•••' if _SECRET.search(str(name)) else _value(value)}" for name, value in named]
            left = len(parameters) - len(named)
        elif isinstance(parameters, (list, tuple)):
            shown = [_value(value) for value in parameters[:VALUES]]
            left = len(parameters) - len(shown)
        else:
            shown, left = [_value(parameters)], 0
    except Exception as error:  # noqa: BLE001 - a value of the app's own class may do anything
        return f"(not shown: {type(error).__name__})"
    return ", ".join(shown + ([f"and {left:,} more"] if left else []))


def shortened(lines: Sequence[str]) -> tuple[str, ...]:
    """A plan's lines, as many and as long as are kept."""
    return tuple(_short(line, LONGEST) for line in lines[:PLAN_LINES])


def _value(value: object) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value):,} bytes>"
    if isinstance(value, str) and len(value) > LONGEST_VALUE:
        return f"{value[:LONGEST_VALUE]!r}… ({len(value):,} characters)"
    return _short(repr(value), LONGEST_VALUE)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
