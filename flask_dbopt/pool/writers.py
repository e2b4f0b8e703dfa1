"""The figures of a database's writers: who wrote for how long, and who had to wait for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

#: Writers that are named, each process its first ones; the rest share a name.
MOST_NAMED, OTHERS = 50, "(others)"
_TURNS, _MS = "held_num.", "held_ms."


@dataclass(frozen=True, slots=True)
class WriterStats:
    """Gauges and counters of one line; durations in milliseconds, sums since the process began."""

    writers_waiting: int = 0
    writers_active: int = 0
    """Writing now: at most one, but each worker says how it was two seconds ago."""
    writers_wait_max_ms: float = 0.0
    """The longest wait of any worker that lives; sums cannot tell it."""
    writers_num: int = 0
    """Turns that were taken."""
    writers_queued: int = 0
    """Of those, how many had to wait for another writer of ours."""
    writers_wait_ms: float = 0.0
    writers_usage_ms: float = 0.0
    """How long all turns lasted."""
    writers_errors: int = 0
    """Writers whose turn did not come in time."""

    def counters(self) -> dict[str, float]:
        """What only grows."""
        return {name: getattr(self, name) for name in _COUNTERS}

    def gauges(self) -> dict[str, float]:
        """What goes up and down."""
        return {name: getattr(self, name) for name in GAUGES}


GAUGES = ("writers_waiting", "writers_active", "writers_wait_max_ms")
_COUNTERS = tuple(each.name for each in fields(WriterStats) if each.name not in GAUGES)


@dataclass(frozen=True, slots=True)
class Holder:
    """How often and how long one writer had the lock: a request (``POST order.create``), or a thread."""

    who: str
    turns: int
    ms: float


class TurnCounts:
    """What one process's line counts. Only whoever has the turn adds to it, so no lock is needed."""

    def __init__(self) -> None:
        self.taken = self.queued = 0
        self.waited = self.longest = self.used = 0.0
        self._holders: dict[str, list[float]] = {}

    def take(self, waited: float, *, has_queued: bool) -> None:
        """A turn begins, after so many seconds."""
        self.taken += 1
        if has_queued:
            self.queued += 1
            self.waited += waited
            self.longest = max(self.longest, waited)

    def end(self, who: str, lasted: float) -> None:
        """A turn ends."""
        self.used += lasted
        holder = self._holders.get(who)
        if holder is None:
            name = kind_of(who)
            if name not in self._holders and len(self._holders) >= MOST_NAMED:
                name = OTHERS
            holder = self._holders.setdefault(name, [0, 0.0])
        holder[0] += 1
        holder[1] += lasted

    def stats(self, *, waiting: int, active: int, errors: int) -> WriterStats:
        """The figures as they are now."""
        return WriterStats(
            writers_waiting=waiting,
            writers_active=active,
            writers_wait_max_ms=self.longest * 1e3,
            writers_num=self.taken,
            writers_queued=self.queued,
            writers_wait_ms=self.waited * 1e3,
            writers_usage_ms=self.used * 1e3,
            writers_errors=errors,
        )

    def holders(self) -> dict[str, float]:
        """Who had the lock, as counters; ``holders_of`` reads them."""
        counters: dict[str, float] = {}
        for who, (turns, seconds) in list(self._holders.items()):
            counters[_TURNS + who], counters[_MS + who] = turns, seconds * 1e3
        return counters


def kind_of(who: str) -> str:
    """A name to count by, for good: the same from one time to the next, though threads are numbered; and text."""
    who = who.encode(errors="backslashreplace").decode()
    return re.sub(r"\d+", "N", who) if re.match(r"[A-Z]\w*[a-z]\w*-\d", who) else who


def holders_of(counters: Mapping[str, float], prefix: str) -> tuple[Holder, ...]:
    """Who had the lock, the longest first; ``prefix`` is what the counters' names have in front."""
    turns, lasted = prefix + _TURNS, prefix + _MS
    found: Iterable[Holder] = (
        Holder(name.removeprefix(lasted), int(counters.get(turns + name.removeprefix(lasted), 0)), ms)
        for name, ms in counters.items()
        if name.startswith(lasted)
    )
    return tuple(sorted(found, key=lambda holder: -holder.ms))
