"""The pool's figures, by psycopg_pool's names where they fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Gauges and counters of one pool; durations in milliseconds, all sums since the process began."""

    pool_min: int = 0
    pool_max: int = 0
    pool_size: int = 0
    """Connections open and usable, lent or idle."""
    pool_available: int = 0
    """Idle now."""
    pool_parked: int = 0
    """Given back but still referenced by somebody, so not lent again."""
    requests_waiting: int = 0
    requests_num: int = 0
    requests_immediate: int = 0
    """Check-outs served at once by an idle connection."""
    requests_queued: int = 0
    requests_wait_ms: float = 0.0
    requests_errors: int = 0
    """Check-outs that timed out or could not connect."""
    usage_ms: float = 0.0
    returns_bad: int = 0
    """Connections that came back in a transaction or beyond repair."""
    connections_num: int = 0
    connections_ms: float = 0.0
    connections_errors: int = 0
    connections_lost: int = 0

    @property
    def hit_ratio(self) -> float | None:
        """The part of check-outs served at once; None before the first."""
        return self.requests_immediate / self.requests_num if self.requests_num else None

    def counters(self) -> dict[str, float]:
        """What only grows."""
        return {name: getattr(self, name) for name in _COUNTERS}

    def gauges(self) -> dict[str, float]:
        """What goes up and down."""
        return {name: getattr(self, name) for name in _GAUGES}

    @classmethod
    def total(cls, every: Iterable[PoolStats]) -> PoolStats:
        """Several pools as one."""
        listed = list(every)
        return cls(*(sum(getattr(stats, name) for stats in listed) for name in _NAMES))


_NAMES = tuple(each.name for each in fields(PoolStats))
_GAUGES = tuple(name for name in _NAMES if name.startswith("pool_") or name == "requests_waiting")
_COUNTERS = tuple(name for name in _NAMES if name not in _GAUGES)
