"""Query results that are served only while they are true: look, keep, forget. Freshness is the watcher's word."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flask_dbopt.engines.protocol import Identity, Watcher
from flask_dbopt.signals import Emit, silence


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Gauges and counters of one process's cache, or of all workers' summed; sizes in bytes, ``ttl`` in seconds."""

    enabled: bool = True
    hits: int = 0
    misses: int = 0
    """Look-ups of a cacheable statement that were not served; runs of other statements are not counted at all."""
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
    """Results not kept: too large, mutable, or the database changed while they were read."""
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


@dataclass(frozen=True, slots=True)
class Kept:
    """A result as its query would give it now. Rows are shared and immutable."""

    rows: tuple[Any, ...]
    description: tuple[Any, ...] | None


class Ticket:
    """The right to keep the result of the query that is about to run, if nothing is committed meanwhile."""

    __slots__ = ("max_rows",)

    max_rows: int
    """Read at most this many rows before giving up on keeping."""

    def keep(self, rows: Sequence[Any], description: tuple[Any, ...] | None) -> bool:
        """Keep the whole result; False when it may not be. More than ``max_rows`` rows means: too large."""
        return False


class Shelf:
    """One database's part of the cache: what a cursor sees of it."""

    def look(
        self, sql: str, parameters: Any, factories: Hashable, identity: Identity | None = None
    ) -> Kept | Ticket | None:
        """A true result, or the right to keep one, or None: just run it.

        Only to be asked outside a transaction, on a connection without temp objects, attached databases, own
        functions, collations or authorizer. ``factories`` is all that shapes rows (row and text factory, detect_types).
        ``identity`` is the file the connection was opened on: another one than the watcher sees means None.
        """
        return None

    def learn(self, sql: str, seconds: float, parameters: Any = None, factories: Hashable = None) -> None:
        """What one run of ``sql`` cost, fetching included. Only worth calling when ``seconds > shelf.worth``."""

    worth: float
    """Seconds; what is cheaper than this is not looked up."""


class Cache:
    """Results of all databases of one optimizer, within one bound of entries and bytes."""

    def __init__(
        self,
        *,
        max_entries: int = 1000,
        ttl: float = 3600.0,
        max_bytes: int = 64 << 20,
        max_result: int = 1 << 20,
        enabled: bool = True,
        emit: Emit = silence,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.enabled = enabled

    def shelf(self, database: str, watcher: Watcher) -> Shelf:
        """The shelf of one database; asked twice, the same one with the newer watcher."""
        return Shelf()

    def stats(self) -> CacheStats:
        return CacheStats()

    def clear(self) -> int:
        """Drop everything; how many entries that was."""
        return 0

    def invalidate(self, *tables: str) -> int:
        """Drop every result that read one of these tables; how many that was."""
        return 0

    @contextmanager
    def bypass(self) -> Iterator[None]:
        """Inside it, in this context only, nothing is served and nothing is kept."""
        yield

    def sweep(self, now: float) -> None:
        """Drop what is too old or no longer true, and let go of files that are gone."""

    def abandon(self) -> None:
        """After a fork, in the child: start empty and leave inherited handles untouched."""

    def close(self) -> None:
        """Serve nothing any more and close the watchers."""
