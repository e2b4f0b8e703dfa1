"""The guard against injection: does a value of the request change what a statement says?

Asked once a text, before it runs. A value that stands in no text costs a search; only one that does is looked at by
tokens. What leaves this room is the statement's fingerprint, never a value.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from flask_dbopt.errors import StatementRefused
from flask_dbopt.monitor.forms import HARD, Forms, longest_part
from flask_dbopt.signals import Emit, silence
from flask_dbopt.sql.fingerprint import fingerprint
from flask_dbopt.sql.splice import Effect, effect
from flask_dbopt.sql.tokens import Token, tokens

log = logging.getLogger("flask_dbopt.monitoring")

#: Places of one value in a text that are looked at.
_MOST_PLACES = 16
#: Texts that are remembered: those in which a value was seen once, and those whose shape is known to be the app's.
_MOST_SEEN, _MOST_SHAPES = 4_096, 256
#: Findings that are kept, and how many may be told in a minute; all are counted.
_MOST_KEPT, _MOST_TOLD = 100, 30
#: Seconds between two lines about one endpoint and shape.
_QUIET = 60.0
_LONGEST_SHOWN = 2_000


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a request."""

    source: str
    """Where in the request it came: "query", "form", "json", "path", "header", "cookie", "file"."""
    forms: Forms


@dataclass(frozen=True, slots=True)
class Values:
    """What the app can have taken from the request by now."""

    endpoint: str
    values: Sequence[Value]
    complete: bool = True
    """False: there were more than anybody would look through."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A value of a request changed what a statement says. Times are unix seconds."""

    sql: str
    """The statement without literals."""
    endpoint: str
    place: str
    """``file:line`` of the app that ran it; empty where it is not known."""
    source: str
    """Where in the request the value came."""
    blocked: bool
    first_seen: float
    last_seen: float
    count: int = 1


class Origin(Protocol):
    def __call__(self, sql: str, start: int, end: int, breaks: bool, /) -> bool:
        """Whether the app's own code wrote ``sql[start:end]``, as far as can be told.

        ``breaks``: it ends a literal there, or begins a comment; so better be sure.
        """
        ...


class Guard:
    """Looks at statements for one app. ``values()`` is None outside of a request."""

    def __init__(
        self,
        mode: str,
        values: Callable[[], Values | None],
        *,
        is_own: Origin = lambda sql, start, end, breaks: False,
        place: Callable[[str], str] = lambda sql: "",
        emit: Emit = silence,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``mode``: "log" or "block". ``place(sql)`` is where in the app a statement comes from, "" if not known."""
        self._blocks = mode == "block"
        self._values = values
        self._is_own = is_own
        self._place = place
        self._emit = emit
        self._clock = clock
        self._seen: set[int] = set()
        self._clean: deque[str] = deque(maxlen=_MOST_SHAPES)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], tuple[Suspicion, float]] = OrderedDict()
        """With the moment when each was told last."""
        self._told: deque[float] = deque(maxlen=_MOST_TOLD)

    def inspect(self, sql: str) -> bool:
        """Whether this text need not be looked at again. Raises StatementRefused where the guard blocks.

        What a request runs without a trace of its values in it is the app's own text, and stays so.
        """
        request = self._values()
        if request is None:
            return True
        look = _Look(sql)
        met = False
        for value in request.values:
            hits = look.at(value.forms)
            met = met or bool(hits)
            if any(not self._is_known(look, hit) for hit in hits if hit.effect is not Effect.NONE):
                self._suspect(sql, request.endpoint, value.source)
                return False
        if not request.complete:
            return False
        if met:  # A literal of this request, perhaps: to remember every such text would drive out the others.
            mark = hash(sql)
            if mark not in self._seen:
                if len(self._seen) >= _MOST_SEEN:
                    self._seen.clear()
                self._seen.add(mark)
                return False
        self._clean.append(sql)
        return True

    def suspicions(self) -> list[Suspicion]:
        """What this process found, the newest first; one line for an endpoint and a shape."""
        with self._lock:
            return sorted((one for one, _ in self._kept.values()), key=lambda one: -one.last_seen)

    def _is_known(self, look: _Look, hit: _Hit) -> bool:
        """Whether what looks like a value is the app's own text all the same: two that happen to be equal."""
        breaks = hit.effect is Effect.BREAKS
        if breaks and not look.text[hit.start : hit.end].strip("'\"` ") and not look.is_torn:
            return True  # a quote alone, and every literal is closed
        if not breaks and hit.start <= look.tokens[0].start and sum(each.start >= hit.end for each in look.tokens) > 3:
            return True  # nobody lets a request begin the statement, and goes on by himself
        if self._is_own(look.sql, hit.start, hit.end, breaks):
            return True
        if breaks:
            return False
        shape = fingerprint(look.sql)
        return any(fingerprint(known) == shape for known in list(self._clean))

    def _suspect(self, sql: str, endpoint: str, source: str) -> None:
        now = self._clock()
        place = self._place(sql)
        shape = fingerprint(sql)[:_LONGEST_SHOWN]
        new = Suspicion(shape, endpoint, place, source, self._blocks, now, now)
        with self._lock:
            known, told_at = self._kept.pop((endpoint, shape), (None, -_QUIET))
            if known is not None:
                new = replace(new, first_seen=known.first_seen, count=known.count + 1)
            is_news = now - told_at >= _QUIET and (len(self._told) < _MOST_TOLD or now - self._told[0] >= _QUIET)
            if is_news:
                self._told.append(now)
            self._kept[endpoint, shape] = new, now if is_news else told_at
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        if is_news:
            log.warning(
                "%s: a value from the request (%s) changes a statement: %s  [%s%s]",
                endpoint, source, shape, place or "place unknown", ", refused" if self._blocks else "",
            )  # fmt: skip
        self._emit("suspicious_query", sql=shape, endpoint=endpoint, place=place, source=source, blocked=self._blocks)
        if self._blocks:
            raise StatementRefused(
                f"a value from the request ({source}) changes what this statement says",
                hint=f"pass it as a parameter{f' in {place}' if place else ''}, or choose it from a list of constants; "
                'DBOPT_MONITOR_GUARD = "log" only tells',
            )


@dataclass(frozen=True, slots=True)
class _Hit:
    """A value, or a part of one, where it stands in a text."""

    start: int
    end: int
    effect: Effect


class _Look:
    """One text that is being looked at; its tokens are read when they are needed, and once."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.text = sql.lower()
        if len(self.text) != len(sql):  # a letter beyond ASCII that has two in lower case
            self.sql = self.text
        self._tokens: list[Token] | None = None

    @property
    def tokens(self) -> list[Token]:
        if self._tokens is None:
            self._tokens = tokens(self.text)
        return self._tokens

    @property
    def is_torn(self) -> bool:
        return any(token.kind == "torn" for token in self.tokens)

    def at(self, sought: Forms) -> list[_Hit]:
        """Where a value stands, in whatever form, and what it does there."""
        text = self.text
        hits = [hit for form in sought.whole if form in text for hit in self._hits(form)]
        if not hits and sought.cut:
            hits = [hit for piece in sought.pieces if piece in text for hit in self._hits(piece)]
            if any(end in text for end in sought.ends):
                part = max((longest_part(form, text) for form in sought.cut), key=len)
                if HARD.search(part):
                    hits += [hit for hit in self._hits(part) if hit.effect is Effect.BREAKS]
        harmless = [hit for hit in hits if hit.effect is Effect.NONE]
        # Within it as it was escaped, a value with quotes stands as it was, too.
        return harmless + [
            hit
            for hit in hits
            if hit.effect is not Effect.NONE
            and not any(one.start <= hit.start and hit.end <= one.end for one in harmless)
        ]

    def _hits(self, piece: str) -> Iterator[_Hit]:
        at = -1
        for _ in range(_MOST_PLACES):
            at = self.text.find(piece, at + 1)
            if at < 0:
                return
            end = at + len(piece)
            is_harmless = len(piece) == 1 and piece not in "'\"`"
            yield _Hit(at, end, Effect.NONE if is_harmless else effect(self.text, at, end, self.tokens))
