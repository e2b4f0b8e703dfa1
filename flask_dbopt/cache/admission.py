"""What is worth a look-up, and what is worth keeping: that which repeats and costs more than a hit."""

from __future__ import annotations

import datetime
import decimal
import re
import sys
import uuid
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from flask_dbopt.engines.protocol import Footprint

# A hit costs some 8 µs here and a kept miss 25 µs more than a plain run; so this is where keeping begins to
# pay for a query that is repeated a few times between two changes.
WORTH: Final = 25e-6
# A run of this cost says by itself that the statement is expensive; less may be a cold start or a busy machine.
SURE: Final = 2e-3
# What asking the engine for its token takes at most where that holds; where many threads want the interpreter it takes
# ten times as long, as cheap queries do.
_USUAL: Final = 15e-6
_DEAREST: Final = 1e-3

# What a statement begins with for its first run, however slow: nine or ten point SELECTs use it up. And the most
# that it can save.
_TRUST: Final = 7 * WORTH
_PROVED: Final = 1000 * WORTH
#: How much of its dearest run a statement keeps at each cheaper one.
_FADING: Final = 0.9

# Seconds until the engine is asked again. A schema seldom changes; what it could not say for a lock, it soon can.
_REFUSAL: Final = 60.0
_DOUBT: Final = 0.25
_GENERATION: Final = 300.0
_STATEMENTS: Final = 2048
_LONGEST: Final = 20_000
_EXPENSIVE_RUNS: Final = 8
_CREDIT: Final = 64
_RETURN: Final = 4
_PAUSE: Final = 256
#: Which hits of a statement are run again instead, to see whether they still save anything.
_PROOFS: Final = frozenset((4, 16))
_PROVE_EVERY: Final = 64

_PARTS: Final = re.compile(
    r"""(?P<literal>'[^']*+'|(?<![\w$])\.?\d)|(?P<placeholder>[?:@$])"""
    r"""|"[^"]*+"|`[^`]*+`|\[[^\]]*+\]|--[^\n]*+|/\*.*?(?:\*/|\Z)""",
    re.DOTALL,
)

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


class Price:
    """What a look-up costs here and now: a running median."""

    __slots__ = ("_seconds", "factor")

    def __init__(self) -> None:
        self._seconds = _USUAL
        self.factor = 1.0
        """How much dearer it is than usual."""

    def paid(self, seconds: float) -> None:
        """One took so long, by the clock on the wall."""
        self._step(1.05 if seconds > self._seconds else 0.95)

    def fade(self) -> None:
        """Time went by: where look-ups grew dear few are made, and nobody would notice that they are cheap again."""
        self._step(0.5)

    def _step(self, factor: float) -> None:
        self._seconds = min(max(self._seconds * factor, _USUAL), _DEAREST)
        self.factor = self._seconds / _USUAL


class Statement:
    """One SQL text that was found worth looking up, and how that has paid so far.

    Its balance, in seconds, is what its runs cost and its hits saved, each above what is worth a look-up. So a
    cheap statement that slipped in is soon at its end, while one slow hit in a hundred pays for the other looks.
    """

    __slots__ = (
        "balance",
        "credit",
        "fits",
        "footprint",
        "hits",
        "latest",
        "most",
        "paid_lately",
        "pause",
        "shape",
        "sql",
        "true_for",
        "worth",
    )

    def __init__(self, sql: str, shape: str, balance: float, latest: float, worth: float = WORTH) -> None:
        """``worth``: seconds that a look-up has to save; its owner changes that."""
        self.sql = sql
        self.shape = shape
        """Its text without literals: what may be told to others."""
        self.footprint: Footprint | None = None
        self.true_for: Hashable = None
        """The state of the database, by its token, in which that footprint was seen."""
        self.balance = balance
        self.worth = worth
        self.latest = latest
        """What its latest run cost, and so what the next one may, in seconds."""
        self.most: float | None = None
        """What its dearer runs cost by ``measured``: a run told by the clock on the wall costs no more than that."""
        self.fits = True
        """Whether the latest result that was offered could be kept, for its size and its values."""
        self.paid_lately = False
        self.hits = 0
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

    def paid(self, seconds: float) -> None:
        """A hit saved so much."""
        self.paid_lately = True
        self.credit = min(self.credit + _RETURN, 4 * _CREDIT)
        self.balance = min(self.balance + seconds - self.worth, _PROVED)

    def is_to_be_proved(self) -> bool:
        """Whether this hit is the one to run again instead: what a result cost when it was kept may have been a cold
        start, and while it is served nobody would notice."""
        self.hits += 1
        return self.hits in _PROOFS or self.hits % _PROVE_EVERY == 0

    def disproved(self) -> None:
        """A result that was served proved cheap: a few more cheap runs, and it is over."""
        self.balance = min(self.balance, 4 * self.worth)

    def ran(self, seconds: float, before: float = 0.0) -> None:
        """One more run by the clock on the wall, or the rest of one of which ``before`` is counted already."""
        if self.most is not None and seconds > self.most:
            # Other threads had the interpreter meanwhile, as they have of all statements.
            seconds, before = self.most, min(before, self.most)
        # Not locked: an update that another thread's overtakes is one run less to judge by.
        self.latest = seconds
        self.balance = min(self.balance + seconds - (before or self.worth), _PROVED)

    def measured(self, seconds: float) -> None:
        """One more run, in processor time."""
        self.most = seconds if self.most is None else max(seconds, _FADING * self.most)
        self.ran(seconds)

    def is_worth_it(self) -> bool:
        return self.balance > 0

    def is_sure(self) -> bool:
        """Whether the result of its next run is worth a try even if nobody asks for it again."""
        return self.fits and self.latest > SURE


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


@dataclass(slots=True)
class _Probation:
    """A statement that proved cheap."""

    wait: int = _EXPENSIVE_RUNS
    runs: int = _EXPENSIVE_RUNS
    """Expensive ones to go until it is considered again."""
    seconds: float = 0.0
    """What those since then have cost."""


class Admission:
    """Decides from what runs cost whether a statement is looked up at all. Its owner locks it.

    Of all statements but the worthy ones it knows hashes only.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refused: dict[int, float] = {}
        """Statements that may not be kept, and until when nobody asks again."""
        self._cheap: dict[int, _Probation] = {}
        self._sights = Doorkeeper(_STATEMENTS, clock)

    def __len__(self) -> int:
        return len(self._refused) + len(self._cheap) + len(self._sights)

    def consider(self, sql: str, seconds: float) -> float:
        """An expensive run of a statement that is not looked up: the balance that it may begin with, if any."""
        if type(sql) is not str or len(sql) > _LONGEST:
            return 0.0
        mark = hash(sql)
        if mark in self._refused:
            if self._clock() < self._refused[mark]:
                return 0.0
            del self._refused[mark]
        probation = self._cheap.get(mark)
        if probation is not None:
            probation.runs -= 1
            probation.seconds += seconds
            if probation.runs > 0:
                return 0.0
            # That many slow runs are no cold start. But they may be noise: the next time, more of them for as much.
            balance = min(probation.seconds * _EXPENSIVE_RUNS / probation.wait, _PROVED)
            wait = min(2 * probation.wait, 1 << 16)
            self._cheap[mark] = _Probation(wait, wait)
            return balance
        if (seconds > SURE and is_lasting(sql)) or self._sights.see(sql) is not Sight.FIRST:
            return min(seconds, _TRUST)
        return 0.0

    def refuse(self, sql: str, known: bool) -> None:
        """The engine says that it may not be kept, or (not ``known``) cannot say at the moment."""
        _bounded(self._refused)[hash(sql)] = self._clock() + (_REFUSAL if known else _DOUBT)

    def demote(self, sql: str) -> None:
        """It is cheaper than a hit."""
        if hash(sql) not in self._cheap:
            _bounded(self._cheap)[hash(sql)] = _Probation()


def is_lasting(sql: str) -> bool:
    """Whether this text stays the same for other values: it has placeholders for them, or no values at all."""
    kinds = {match.lastgroup for match in _PARTS.finditer(sql)}
    return "placeholder" in kinds or "literal" not in kinds


def _bounded(statements: dict[int, Any]) -> dict[int, Any]:
    """Room for one more: the oldest makes it."""
    while len(statements) >= _STATEMENTS:
        del statements[next(iter(statements))]
    return statements


def remember(statements: dict[str, Statement], statement: Statement) -> None:
    """Room for one more is made by the oldest that gave no hit since it was last passed over."""
    while len(statements) >= _STATEMENTS:
        oldest = statements.pop(next(iter(statements)))
        if oldest.paid_lately:
            oldest.paid_lately = False
            statements[oldest.sql] = oldest
    statements[statement.sql] = statement
