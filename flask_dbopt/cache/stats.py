"""The cache's figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Gauges and counters of one process's cache, or all workers' summed; bytes, and ``ttl`` in seconds."""

    enabled: bool = True
    hits: int = 0
    misses: int = 0
    """Look-ups that were not served although their result could be kept; other runs are not counted."""
    fills: int = 0
    """Results kept."""
    entries: int = 0
    """Results held now."""
    bytes: int = 0
    """Their estimated size."""
    evictions: int = 0
    """Dropped to make room."""
    expirations: int = 0
    """Dropped because they were older than ``ttl``."""
    invalidations: int = 0
    """Dropped because the database changed, or because somebody asked."""
    refused: int = 0
    """Results not kept: too large, too cheap, mutable, or the database changed while they were read."""
    max_entries: int = 0
    max_bytes: int = 0
    max_result: int = 0
    ttl: float = 0.0

    @property
    def lookups(self) -> int:
        return self.hits + self.misses

    @property
    def hit_ratio(self) -> float | None:
        """The part of look-ups that was served, 0…1; None before the first."""
        return self.hits / self.lookups if self.lookups else None
