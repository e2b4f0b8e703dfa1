"""Query results that are served only while they are true: look, keep, forget.

The promise: what is served is never older than the last commit visible when the look-up began, whichever
process made it. Each entry carries the watcher's token of the state it was read from. It is served only if
the token read *during* the look-up is equal, and kept only if the one before its query equals the one after.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from flask_dbopt.cache.admission import WORTH, Admission, Doorkeeper, Sight, Statement, remember, weigh
from flask_dbopt.cache.key import key_of, weight_of
from flask_dbopt.cache.store import Entry, Kept, Store
from flask_dbopt.engines.protocol import Footprint, Identity, Watcher
from flask_dbopt.signals import Emit, silence
from flask_dbopt.sql.fingerprint import fingerprint

# No row takes less than this, so a result within its byte limit cannot have more rows.
_LEAST_ROW: Final = 64
_IDLE: Final = 300.0

_bypassed: ContextVar[tuple[Cache, ...]] = ContextVar("flask_dbopt_cache_bypassed", default=())


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


class Ticket:
    """The right to keep the result of the query that is about to run, if nothing is committed meanwhile."""

    __slots__ = ("_generation", "_identity", "_key", "_shelf", "_started", "_statement", "_token", "max_rows")

    #: As in ``Kept``: a caller tells the two apart by it.
    rows: Final = None
    description: Final = None

    max_rows: int
    """A result with more rows is too large to be kept."""

    def __init__(
        self,
        shelf: Shelf,
        statement: Statement,
        key: tuple[Any, ...],
        token: Hashable,
        identity: Identity | None,
        generation: int,
        max_rows: int,
        started: float,
    ) -> None:
        self._shelf = shelf
        self._statement = statement
        self._key = key
        self._token = token
        self._identity = identity
        self._generation = generation
        self.max_rows = max_rows
        self._started = started

    def keep(self, rows: Sequence[Any], description: Any) -> bool:
        """Keep this result, which must be whole; whether it was kept.

        Rows are tuples or the driver's own immutable ones. Offer also what was read of a result that turned
        out to have more than ``max_rows`` rows: it is not kept, and its query gets no ticket for some time.
        """
        return self._shelf._keep(self, rows, description)


class Shelf:
    """One database's part of the cache: what a cursor sees of it."""

    worth: float = WORTH
    """Seconds; what is cheaper than this is not looked up."""

    def __init__(self, cache: Cache, database: str, watcher: Watcher) -> None:
        self.database = database
        self._cache = cache
        self._watcher = watcher
        self._restart()

    def _restart(self) -> None:
        self._worthy: dict[str, Statement] = {}
        self._admission = Admission(self._cache._clock)
        self._doorkeeper = Doorkeeper(4 * self._cache._store.max_entries, self._cache._clock)
        self._used = False
        self._idle_since: float | None = None
        """The sweep that last found it used; None while it watches nothing."""

    def look(
        self, sql: str, parameters: Any, factories: Hashable, identity: Identity | None = None
    ) -> Kept | Ticket | None:
        """A true result, or the right to keep one, or None: just run it.

        Only to be asked outside a transaction, on a connection without temp objects, attached databases, own
        functions, collations or authorizer; a ticket is only good on one without half-read cursors.
        ``factories`` is all that shapes rows (row and text factory, detect_types). ``identity`` is the file
        the connection was opened on: where that is not the one at the path now, the answer is None.
        """
        statement = self._worthy.get(sql)
        if statement is None:
            return None
        return self._search(statement, parameters, factories, identity)

    def learn(self, sql: str, seconds: float) -> None:
        """What one run of a SELECT cost, fetching included; cheap ones may be left out."""
        if seconds > self.worth and sql not in self._worthy and self._cache.enabled:
            self._consider(sql, seconds)

    def _search(
        self, statement: Statement, parameters: Any, factories: Hashable, identity: Identity | None
    ) -> Kept | Ticket | None:
        cache = self._cache
        if not cache.enabled or cache in _bypassed.get():
            return None
        try:
            key = key_of(self.database, statement.sql, parameters, factories)
            if key is None:
                return None
            with cache._lock:
                generation = cache._generation
                entry = cache._store.get(key, cache._clock())
        except TypeError:  # factories that cannot be hashed
            return None
        self._used = True
        token = None
        if entry is not None:
            # Read after the entry was found: whatever was committed until now shows.
            token = self._watcher.token(identity)
            if token is not None and token == entry.token:
                with cache._lock:
                    cache._hits += 1
                    statement.paid()
                cache._emit("cache_hit", sql=statement.shape)
                return entry.kept
            if token is not None:
                self._drop_untrue(token)
        with cache._lock:
            sight = self._doorkeeper.see(key)
            if sight is Sight.UNFIT:
                return None
            cache._misses += 1
            # Without parameters its text is all there is to it, and that was seen before or it were not here.
            fill = (sight is Sight.AGAIN or not parameters) and statement.may_fill()
        cache._emit("cache_miss", sql=statement.shape)
        if not fill:
            return None
        if token is None:
            token = self._watcher.token(identity)
            if token is None:
                return None
        max_rows = cache._max_result // _LEAST_ROW
        return Ticket(self, statement, key, token, identity, generation, max_rows, cache._timer())

    def _keep(self, ticket: Ticket, rows: Sequence[Any], description: Any) -> bool:
        cache, statement, key = self._cache, ticket._statement, ticket._key
        seconds = cache._timer() - ticket._started
        size = weigh(rows, self._watcher.row_types) if len(rows) <= ticket.max_rows else None
        if size is not None:
            size += weight_of(key)
        with cache._lock:
            still_worth_it = statement.cost(seconds)
            if not still_worth_it and self._worthy.pop(statement.sql, None) is not None:
                self._admission.demote(statement.sql)
            if seconds <= self.worth or size is None or size > cache._max_result:
                self._doorkeeper.turn_away(key)
                cache._refused += 1
                return False
        footprint = statement.footprint
        if footprint is None or statement.true_for != ticket._token:
            # Asked between the two tokens, so that it is true for the schema that the rows were read under.
            footprint = self._watcher.footprint(statement.sql)
        after = self._watcher.token(ticket._identity)
        with cache._lock:
            if footprint is not None and not _may_be_kept(footprint):
                self._worthy.pop(statement.sql, None)
                self._admission.refuse(statement.sql, known=True)
                footprint = None
            if footprint is None or after != ticket._token or cache._generation != ticket._generation:
                cache._refused += 1
                return False
            statement.footprint, statement.true_for = footprint, after
            kept = Kept(tuple(rows), description)
            entry = Entry(kept, after, self.database, footprint.reads, size, cache._clock())
            cache._store.put(key, entry)
            cache._fills += 1
        return True

    def _consider(self, sql: str, seconds: float) -> None:
        """An expensive run of a statement that is not looked up yet: find out whether it may be."""
        with self._cache._lock:
            if not self._admission.consider(sql):
                return
        self._used = True
        footprint = self._watcher.footprint(sql)
        with self._cache._lock:
            if footprint is not None and _may_be_kept(footprint):
                remember(self._worthy, Statement(sql, fingerprint(sql), seconds))
            else:
                self._admission.refuse(sql, known=footprint is not None)

    def _drop_untrue(self, token: Hashable | None) -> None:
        """Drop what was read from another state of the database than this one."""
        cache = self._cache
        with cache._lock:
            dropped = cache._store.drop_where(
                lambda entry: entry.shelf == self.database and entry.token != token,
            )
            cache._invalidations += dropped
        if dropped:
            cache._emit("cache_invalidated", database=self.database, entries=dropped)

    def _sweep(self, now: float) -> None:
        """Drop what became untrue; a shelf that nobody used for long lets go of its file."""
        if self._used:
            self._used, self._idle_since = False, now
        if self._idle_since is None:
            return
        if now - self._idle_since >= _IDLE:
            self._idle_since = None
            self._watcher.close()
            self._drop_untrue(None)
        elif (token := self._watcher.token()) is not None:
            self._drop_untrue(token)


class Cache:
    """Results of all databases of one optimizer, within one bound of entries and bytes. Thread-safe."""

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
        timer: Callable[[], float] = time.thread_time,
    ) -> None:
        """``clock`` tells the age of entries, ``timer`` what a query cost.

        That is processor time, so that waiting for other threads makes no cheap query look expensive.
        """
        self.enabled = enabled
        self._max_result = min(max_result, max_bytes)
        self._emit = emit
        self._clock = clock
        self._timer = timer
        self._lock = threading.Lock()
        self._store = Store(max_entries, max_bytes, ttl)
        self._shelves: dict[str, Shelf] = {}
        self._generation = 0
        """Grows when entries are dropped on request, so that a ticket from before it keeps nothing."""
        self._hits = self._misses = self._fills = self._refused = self._invalidations = 0

    def shelf(self, database: str, watcher: Watcher) -> Shelf:
        """The shelf of one database. Asked again with another watcher: a new, empty one in its place."""
        shelf = self._shelves.get(database)
        if shelf is None or shelf._watcher is not watcher:
            self._drop(lambda entry: entry.shelf == database)
            shelf = self._shelves[database] = Shelf(self, database, watcher)
        return shelf

    def stats(self) -> CacheStats:
        with self._lock:
            store = self._store
            return CacheStats(
                enabled=self.enabled,
                hits=self._hits,
                misses=self._misses,
                fills=self._fills,
                entries=len(store),
                bytes=store.bytes,
                evictions=store.evictions,
                expirations=store.expirations,
                invalidations=self._invalidations,
                refused=self._refused,
                max_entries=store.max_entries,
                max_bytes=store.max_bytes,
                max_result=self._max_result,
                ttl=store.ttl,
            )

    def clear(self) -> int:
        """Drop everything; how many results that was."""
        return self._drop(lambda entry: True)

    def invalidate(self, *tables: str) -> int:
        """Drop every result that was read from one of these tables or views; how many that was."""
        doomed = frozenset(table.lower() for table in tables)
        return self._drop(lambda entry: not doomed.isdisjoint(entry.tables))

    @contextmanager
    def bypass(self) -> Iterator[None]:
        """Inside it, and in this context only, nothing is served and nothing is kept."""
        before = _bypassed.set((*_bypassed.get(), self))
        try:
            yield
        finally:
            _bypassed.reset(before)

    def sweep(self, now: float) -> None:
        """Drop what is too old (``now`` is of our clock) or untrue, and let go of files nobody asks for."""
        with self._lock:
            self._store.expire(now)
        for shelf in tuple(self._shelves.values()):
            shelf._sweep(now)

    def let_go(self) -> None:
        """Close every handle until the next look-up; before a fork, and before a file is deleted.

        SQLite believes that it holds the locks of an inherited handle, so a child would take none of its own.
        """
        for shelf in tuple(self._shelves.values()):
            shelf._watcher.close()

    def abandon(self) -> None:
        """After a fork, in the child: start empty, counts at zero; inherited handles are left untouched."""
        self._lock = threading.Lock()  # the old one may be held by a thread that did not come along
        self._store = Store(self._store.max_entries, self._store.max_bytes, self._store.ttl)
        self._hits = self._misses = self._fills = self._refused = self._invalidations = 0
        self._generation += 1
        for shelf in self._shelves.values():
            shelf._watcher.abandon()
            shelf._restart()

    def close(self) -> None:
        """Serve and keep nothing any more, and close the watchers. A second time is harmless."""
        self.enabled = False
        for shelf in tuple(self._shelves.values()):
            shelf._restart()
            shelf._watcher.close()
        self.clear()

    def _drop(self, condition: Callable[[Entry], bool]) -> int:
        with self._lock:
            self._generation += 1
            dropped: dict[str, int] = {}

            def counted(entry: Entry) -> bool:
                if not condition(entry):
                    return False
                dropped[entry.shelf] = dropped.get(entry.shelf, 0) + 1
                return True

            count = self._store.drop_where(counted)
            self._invalidations += count
        for database, entries in dropped.items():
            self._emit("cache_invalidated", database=database, entries=entries)
        return count


def _may_be_kept(footprint: Footprint) -> bool:
    return footprint.deterministic and not footprint.writes
