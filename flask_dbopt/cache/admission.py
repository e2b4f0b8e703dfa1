"""What is worth a look-up, and what is worth keeping: that which repeats and costs more than a hit."""

from __future__ import annotations

import datetime
import decimal
import sys
import uuid
from collections.abc import Callable, Collection, Hashable, Sequence
from enum import Enum, auto
from typing import Any, Final

from flask_dbopt.engines.protocol import Footprint

# A hit costs some 8 µs here and a kept miss 25 µs more than a plain run; so this is where keeping begins to
# pay for a query that is repeated a few times between two changes.
WORTH: Final = 25e-6

# Seconds until the engine is asked again. A schema seldom changes; what it could not say for a lock, it soon can.
_REFUSAL: Final = 60.0
_DOUBT: Final = 0.25
_GENERATION: Final = 300.0
_STATEMENTS: Final = 4096
_LONGEST: Final = 100_000
_EXPENSIVE_RUNS: Final = 8
_CREDIT: Final = 64
_RETURN: Final = 4
_PAUSE: Final = 256

_IMMUTABLE: Final = frozenset(
    (
        type(None),
        bool,
        int,
        float,
        str,
        bytes,
        datetime.datetime,
        datetime.date,
        datetime.time,
        datetime.timedelta,
        decimal.Decimal,
        uuid.UUID,
    )
)

_SIZED: Final = frozenset((str, bytes))
_SMALL: Final = frozenset((type(None), bool, int, float))


def weigh(rows: Sequence[Any], row_types: Collection[type]) -> int | None:
    """About how many bytes these rows take; None when one of them, or a value in it, might be altered."""
    if not set(map(type, rows)) <= {tuple, *row_types}:
        return None
    size = 0
    # By columns, a third of the time by values: 17 µs for 200 rows of two.
    for column in zip(*rows, strict=True):
        kinds = set(map(type, column))
        if not kinds <= _IMMUTABLE:
            return None
        if kinds <= _SIZED:
            size += 2 * sum(map(len, column))
        elif not kinds <= _SMALL:
            size += sum(map(sys.getsizeof, column))
        size += len(rows) * 64
    return size + len(rows) * 64


class Statement:
    """One SQL text that was found worth looking up, and how that has paid so far."""

    __slots__ = ("credit", "footprint", "mean", "pause", "shape", "sql", "true_for")

    def __init__(self, sql: str, shape: str, seconds: float) -> None:
        self.sql = sql
        self.shape = shape
        """Its text without literals: what may be told to others."""
        self.footprint: Footprint | None = None
        self.true_for: Hashable = None
        """The state of the database, by its token, in which that footprint was seen."""
        self.mean = seconds
        self.credit = _CREDIT
        self.pause = 0

    def may_fill(self) -> bool:
        """A fill costs credit and a hit gives some: what changes faster than it is read gets long pauses."""
        if self.pause:
            self.pause -= 1
            return False
        self.credit -= 1
        if self.credit <= 0:
            self.pause, self.credit = _PAUSE, _CREDIT // 4
        return True

    def paid(self) -> None:
        self.credit = min(self.credit + _RETURN, 4 * _CREDIT)

    def cost(self, seconds: float) -> bool:
        """One more run; whether it is still worth looking up, by the moving mean of its runs."""
        self.mean += (seconds - self.mean) / 8
        return self.mean > WORTH


class Sight(Enum):
    """What is known of a key that has no entry."""

    FIRST = auto()
    AGAIN = auto()
    UNFIT = auto()
    """Its result was too large, too cheap or not immutable."""


class Doorkeeper:
    """Remembers which keys were seen lately, so that what never repeats is never kept. Holds hashes only."""

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self._capacity = max(capacity, 64)
        self._clock = clock
        self._since = clock()
        self._young: dict[int, Sight] = {}
        self._old: dict[int, Sight] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def see(self, key: Hashable) -> Sight:
        mark = hash(key)
        if self._clock() - self._since >= _GENERATION:
            self._age()
        sight = self._young.get(mark) or self._old.get(mark)
        if sight is None:
            self._note(mark, Sight.AGAIN)
            return Sight.FIRST
        return sight

    def turn_away(self, key: Hashable) -> None:
        self._note(hash(key), Sight.UNFIT)

    def _note(self, mark: int, sight: Sight) -> None:
        if len(self._young) >= self._capacity:
            self._age()
        self._young[mark] = sight

    def _age(self) -> None:
        self._old, self._young = self._young, {}
        self._since = self._clock()


class Admission:
    """Decides from what runs cost whether a statement is looked up at all. Its owner locks it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refused: dict[str, float] = {}
        """Statements that may not be kept, and until when nobody asks again."""
        self._cheap: dict[str, list[int]] = {}
        """Statements that proved cheap: how many expensive runs are to go, and how many the next time."""
        self._sights = Doorkeeper(_STATEMENTS, clock)

    def __len__(self) -> int:
        return len(self._refused) + len(self._cheap) + len(self._sights)

    def consider(self, sql: str) -> bool:
        """An expensive run of a statement that is not looked up. True: find out whether it may be."""
        if type(sql) is not str or len(sql) > _LONGEST:
            return False
        if sql in self._refused:
            if self._clock() < self._refused[sql]:
                return False
            del self._refused[sql]
        if sql in self._cheap:
            runs = self._cheap[sql]
            runs[0] -= 1
            if runs[0] > 0:
                return False
            # A longer wait the next time: expensive runs now and then are noise.
            runs[1] = min(2 * runs[1], 1 << 16)
            runs[0] = runs[1]
            return True
        # Without a placeholder its values stand in its text, and may never come again.
        return any(mark in sql for mark in "?:@$") or self._sights.see(sql) is not Sight.FIRST

    def refuse(self, sql: str, known: bool) -> None:
        """The engine says that it may not be kept, or (not ``known``) cannot say at the moment."""
        _bounded(self._refused)[sql] = self._clock() + (_REFUSAL if known else _DOUBT)

    def demote(self, sql: str) -> None:
        """It is cheaper than a hit."""
        if sql not in self._cheap:
            _bounded(self._cheap)[sql] = [_EXPENSIVE_RUNS, _EXPENSIVE_RUNS]


def _bounded(statements: dict[str, Any]) -> dict[str, Any]:
    """Room for one more: the oldest makes it."""
    while len(statements) >= _STATEMENTS:
        del statements[next(iter(statements))]
    return statements


def remember(statements: dict[str, Statement], statement: Statement) -> None:
    _bounded(statements)[statement.sql] = statement
