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
from time import perf_counter
from typing import Any, Final

from flask_dbopt.cache.admission import SURE, WORTH, Admission, Doorkeeper, Price, Sight, Statement, remember, weigh
from flask_dbopt.cache.answer import Kept, Ticket
from flask_dbopt.cache.key import key_of, weight_of
from flask_dbopt.cache.stats import CacheStats
from flask_dbopt.cache.store import Entry, Store
from flask_dbopt.deeds import deed
from flask_dbopt.engines.protocol import Footprint, Identity, Watcher
from flask_dbopt.signals import Emit, silence
from flask_dbopt.sql.fingerprint import fingerprint

__all__ = ["Cache", "CacheStats", "Kept", "Shelf", "Ticket"]

# No row takes less than this, so a result within its byte limit cannot have more rows.
_LEAST_ROW: Final = 64
_IDLE: Final = 300.0

_bypassed: ContextVar[tuple[Cache, ...]] = ContextVar("flask_dbopt_cache_bypassed", default=())


class Shelf:
    """One database's part of the cache: what a cursor sees of it."""

    worth: float = WORTH
    """Seconds; what is cheaper than this is not looked up, where look-ups cost what they usually do."""

    def __init__(self, cache: Cache, database: str, watcher: Watcher) -> None:
        self.database = database
        self._cache = cache
        self._watcher = watcher
        self.worthy: dict[str, Statement] = {}
        """The statements that are looked up, by text: whoever asks here first saves most look-ups."""
        self._restart()

    def _restart(self) -> None:
        self.worthy.clear()
        self._admission = Admission(self._cache._clock)
        self._doorkeeper = Doorkeeper(4 * self._cache._store.max_entries, self._cache._clock)
        self._price = Price()
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
        statement = self.worthy.get(sql)
        if statement is None:
            return None
        return self._search(statement, parameters, factories, identity)

    def learn(self, sql: str, seconds: float, before: float = 0.0) -> None:
        """What one run of a SELECT cost that was not answered here.

        ``before`` is the part of it that was told already: the execution, when ``seconds`` has the fetching too.
        """
        statement, worth = self.worthy.get(sql), self._worth_here()
        if statement is not None:
            statement.worth = worth
            statement.ran(seconds, before)
        elif seconds > worth and (before <= worth or before <= SURE < seconds):
            self._consider(sql, seconds)

    def _search(
        self, statement: Statement, parameters: Any, factories: Hashable, identity: Identity | None
    ) -> Kept | Ticket | None:
        cache = self._cache
        if not cache.enabled or cache in _bypassed.get():
            return None
        if not statement.is_worth_it():
            self._demote(statement)
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
            token = self._token(identity)
            if token is not None and token == entry.token:
                if entry.seconds < SURE and statement.is_to_be_proved():
                    return self._ticket(statement, key, token, identity, generation, on_trial=False)
                with cache._lock:
                    cache._hits += 1
                    statement.paid(entry.seconds)
                cache._emit("cache_hit", sql=statement.shape)
                return entry.kept
            if token is not None:
                self._drop_untrue(token)
        with cache._lock:
            sight = self._doorkeeper.see(key)
            if sight is Sight.UNFIT:
                return None
            cache._misses += 1
            # Without parameters its text is all there is to it, and that was seen before.
            on_trial = sight is Sight.FIRST and bool(parameters) and entry is None
            may_try = not on_trial or (statement.is_sure() and cache._store.has_room())
            fill = may_try and statement.may_fill()
        cache._emit("cache_miss", sql=statement.shape)
        if not fill:
            return None
        if token is None:
            token = self._token(identity)
            if token is None:
                return None
        return self._ticket(statement, key, token, identity, generation, on_trial)

    def _worth_here(self) -> float:
        """Seconds that a query has to cost to be looked up, at what a look-up costs now."""
        return self.worth * self._price.factor

    def _token(self, identity: Identity | None) -> Hashable | None:
        """Asked of the engine, whose answer is most of what a look-up costs."""
        start = perf_counter()
        token = self._watcher.token(identity)
        self._price.paid(perf_counter() - start)
        return token

    def _ticket(
        self,
        statement: Statement,
        key: tuple[Any, ...],
        token: Hashable,
        identity: Identity | None,
        generation: int,
        on_trial: bool,
    ) -> Ticket:
        cache = self._cache
        max_rows = cache._max_result // _LEAST_ROW
        keep, timer = self._keep, cache._timer
        return Ticket(max_rows, statement, key, token, identity, generation, on_trial, keep, timer, timer())

    def _keep(self, ticket: Ticket, rows: Sequence[Any], description: Any, seconds: float) -> bool:
        cache, statement, key = self._cache, ticket.statement, ticket.key
        statement.worth = worth = self._worth_here()
        size = weigh(rows, self._watcher.row_types) if len(rows) <= ticket.max_rows else None
        if size is not None:
            size += weight_of(key)
        statement.measured(seconds)
        statement.fits = size is not None and size <= cache._max_result
        if size is None or not statement.fits or seconds <= worth:
            with cache._lock:
                if cache._store.drop(key) and seconds <= worth:
                    statement.disproved()
                self._doorkeeper.turn_away(key)
                cache._refused += 1
            return False
        footprint = statement.footprint
        if footprint is None or statement.true_for != ticket.token:
            # Asked between the two tokens, so that it is true for the schema that the rows were read under.
            footprint = self._watcher.footprint(statement.sql)
        after = self._watcher.token(ticket.identity)
        with cache._lock:
            if footprint is not None and not _may_be_kept(footprint):
                self.worthy.pop(statement.sql, None)
                self._admission.refuse(statement.sql, known=True)
                footprint = None
            if footprint is None or after != ticket.token or cache._generation != ticket.generation:
                cache._refused += 1
                return False
            statement.footprint, statement.true_for = footprint, after
            kept = Kept(tuple(rows), description)
            entry = Entry(kept, after, self.database, footprint.reads, size, seconds, cache._clock())
            put = cache._store.put_on_trial if ticket.on_trial else cache._store.put
            is_kept = put(key, entry)
            cache._fills += is_kept
        return is_kept

    def _consider(self, sql: str, seconds: float) -> None:
        """An expensive run of a statement that is not looked up yet: find out whether it may be."""
        if not self._cache.enabled:
            return
        with self._cache._lock:
            balance = self._admission.consider(sql, seconds)
        if not balance:
            return
        self._used = True
        footprint = self._watcher.footprint(sql)
        if footprint is not None and _may_be_kept(footprint):
            statement = Statement(sql, fingerprint(sql), balance, seconds, self.worth)
            with self._cache._lock:
                remember(self.worthy, statement)
        else:
            with self._cache._lock:
                self._admission.refuse(sql, known=footprint is not None)

    def _demote(self, statement: Statement) -> None:
        """It proved cheap: no more look-ups."""
        with self._cache._lock:
            if self.worthy.pop(statement.sql, None) is not None:
                self._admission.demote(statement.sql)

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
        self._price.fade()
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

    @deed("cache.clear", found=lambda count: {"dropped": count})
    def clear(self) -> int:
        """Drop everything; how many results that was."""
        return self._drop(lambda entry: True)

    @deed("cache.invalidate", told={"tables": "tables"}, found=lambda count: {"dropped": count})
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
        self._drop(lambda entry: True)

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
