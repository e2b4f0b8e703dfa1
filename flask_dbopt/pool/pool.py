"""Lends connections and takes them back.

A connection's life. It is opened when somebody asks and none is idle, up to ``maximum`` loans at a time. It is lent to
one borrower, most recently used first, so that a quiet hour leaves the rest to age. ``close()`` brings it back: an open
transaction is rolled back, what the borrower changed on it is undone, and whoever still refers to it can no longer use
it. While somebody does refer to it, it is *parked*: not lent again, since a half-read cursor may hang on to it. It is
closed when it grows old, when its file was replaced, or when its state cannot be undone.

A loan and a return that find nothing out of the ordinary take no lock: each step that two threads could make at once
(a place, a connection, the end of a loan) is one ``pop`` or ``append``, which only one of them gets.
"""

from __future__ import annotations

import gc
import logging
import random
import threading
import time
from collections.abc import Callable, Hashable
from sys import getrefcount
from threading import get_ident
from typing import Any
from weakref import ref

from flask_dbopt.engines.protocol import Condition, Connector, Identity
from flask_dbopt.errors import DBOptError, PoolTimeout
from flask_dbopt.pool.entry import COUNTS_ARE_TRUE, Entry, Holder
from flask_dbopt.pool.leaks import Suspects
from flask_dbopt.pool.line import LOOK_AGAIN, Line
from flask_dbopt.pool.stats import PoolStats
from flask_dbopt.pool.stock import Stock
from flask_dbopt.signals import Emit, silence

log = logging.getLogger("flask_dbopt.connection_pool")

#: Seconds between full garbage collections on behalf of those who wait; one stops every thread for a while.
_COLLECT_EVERY = 5.0
#: How many of those who hold connections a timeout names.
_NAMED = 5
_CLEAN = Condition.CLEAN


class Pool:
    """Connections to one database. All durations in seconds; threads share it; a fork calls for ``abandon()``."""

    def __init__(
        self,
        name: str,
        connector: Connector,
        *,
        minimum: int = 5,
        maximum: int = 20,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 3600.0,
        check_after: float = 0.5,
        emit: Emit = silence,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.minimum = minimum
        self.maximum = maximum
        self.timeout = timeout
        self.max_waiting = max_waiting
        self.connector = connector
        self.clock = clock
        self.emit = emit
        self.stock = Stock(
            name,
            connector,
            most_idle=maximum,
            max_lifetime=max_lifetime,
            check_after=check_after,
            emit=emit,
            clock=clock,
            chance=chance,
        )
        self.reconnect_failed: Callable[[Pool], object] | None = None
        """Called once when no connection could be opened for ``DBOPT_POOL_RECONNECT_TIMEOUT`` seconds."""
        self._check_after = check_after
        self._start_empty()

    def _start_empty(self) -> None:
        self.lock = threading.Lock()
        """For what is counted here."""
        self.idle = self.stock.shelves
        self.lent: dict[int, Entry] = {}
        """By the connection's id. Whoever takes an entry out of here ends its loan."""
        self.suspects = Suspects()
        self.is_tracing = False
        """Whether there are suspects."""
        self.line = Line(self.maximum, self.clock)
        self.is_closed = False
        self._shelf_used_last: tuple[Hashable, list[Entry]] = (object(), [])
        """To find it again without hashing the key."""
        self.last_key: Hashable = None
        """The connect arguments asked for last when none of theirs was at hand."""
        self._late = self._queued = self._request_errors = self._bad_returns = 0
        self._waited = 0.0
        self._collected_at: float | None = None

    # --- lending ---

    def lend(self, key: Hashable, context: Any = None, borrower: object = None, timeout: float | None = None) -> Any:
        """A connection opened with ``key``; its ``close()`` gives it back.

        ``context`` is whatever the loan must not outlive; ``borrower`` names itself by ``str``, if anybody asks; None
        is the thread. Raises PoolTimeout when none comes free within ``timeout`` seconds, and the driver's own error
        when none can be opened.
        """
        identity = self.connector.identity()
        now = self.clock()
        line = self.line
        is_late = False
        if line.is_calm and not self.is_closed:
            try:
                line.free.pop()
            except IndexError:
                is_late = self._stand_in_line(now, timeout)
        else:
            is_late = self._stand_in_line(now, timeout)
        if is_late:
            identity, now = self.connector.identity(), self.clock()
        entry = None
        try:
            shelf = self._shelf_used_last
            idle = shelf[1] if shelf[0] is key else self.idle.get(key)
            if idle:
                try:
                    entry = idle.pop()
                except IndexError:
                    pass  # another thread was quicker
                else:
                    if (
                        getrefcount(entry.connection) > entry.alone
                        or entry.identity != identity
                        or not now - entry.idle_since <= self._check_after
                        or entry.expires <= now
                    ):
                        idle.append(entry)
                        entry = None
            if entry is None:
                entry = self._find(key, identity, now)
                if entry is None:
                    is_late = True
                    entry = self.stock.open(key)
                self._shelf_used_last = key, entry.shelf
            connection = entry.connection
            entry.lent_at = now
            entry.borrower = get_ident() if borrower is None else borrower
            if context is not None:
                entry.context = ref(context)
            self.connector.lend(connection, self.take_back)
            self.lent[id(connection)] = entry
        except BaseException:
            with self.lock:
                self._request_errors += 1
            if entry is not None:
                self.stock.discard(entry, "it could not be lent")
            line.give()
            raise
        if is_late:
            with self.lock:
                self._late += 1
                entry.loans += 1
        else:
            entry.loans += 1
        if self.is_tracing:
            self.suspects.trace(entry)
        return connection

    def _stand_in_line(self, now: float, timeout: float | None) -> bool:
        """Take a place, or wait for one; whether it had to. Raises PoolTimeout."""
        if self.is_closed:
            raise self._closed()
        if timeout is None:
            timeout = self.timeout
        line = self.line
        if not line.free:
            self.collect_dropped()
        try:
            waiter = line.join(now, self.max_waiting)
        except OverflowError:
            with self.lock:
                self._request_errors += 1
            raise PoolTimeout(
                f"{len(line.waiters)} borrowers of {self.name} wait already",
                hint="raise DBOPT_POOL_MAX_WAITING, or find out who holds the connections: dbopt.pool.holders()",
            ) from None
        if waiter is None:
            return False
        try:
            spent = line.wait(waiter, timeout, self._look)
        except BaseException:
            with self.lock:
                self._queued += 1
                self._request_errors += 1
            raise
        with self.lock:
            self._queued += 1
            self._request_errors += spent is None
            self._waited += timeout if spent is None else spent
        if spent is None:
            raise self._timed_out(timeout)
        return True

    def _look(self, spent: float) -> None:
        """What one who waits does meanwhile."""
        if self.is_closed:
            raise self._closed()
        if not self.collect_dropped() and spent >= LOOK_AGAIN:
            now = time.monotonic()
            if self._collected_at is None or now - self._collected_at > _COLLECT_EVERY:
                self._collected_at = now
                gc.collect()  # what was dropped inside a reference cycle comes back only now
                self.collect_dropped()

    def _closed(self) -> DBOptError:
        return DBOptError(
            f"the pool of {self.name} is closed", hint="the app or the process that it belonged to has ended"
        )

    def _timed_out(self, timeout: float) -> PoolTimeout:
        holders = self.holders()
        lent = f"{len(holders)} of {self.maximum} are lent"
        if holders:
            first, *others = holders
            lent += f" (oldest {first.seconds:.0f} s, {first.name}"
            lent += "".join(f"; {other.seconds:.0f} s, {other.name}" for other in others[: _NAMED - 1])
            lent += f"; and {len(holders) - _NAMED} more)" if len(holders) > _NAMED else ")"
        self.emit("pool_timeout", database=self.name, waited=timeout)
        return PoolTimeout(
            f"no connection within {timeout:g} s; {lent}", hint="close connections sooner, or raise DBOPT_POOL_MAX"
        )

    def _find(self, key: Hashable, identity: Identity | None, now: float) -> Entry | None:
        """An idle connection that is fit, if need be one that was dropped without ``close()``."""
        self.last_key = key
        found = self.stock.pick(key, identity, now)
        if found is None and self.lent and self.collect_dropped():
            found = self.stock.pick(key, identity, now)
        return found

    # --- taking back ---

    def take_back(self, connection: Any) -> None:
        """What a lent connection's ``close()`` calls."""
        entry = self.lent.pop(id(connection), None)
        if entry is not None:  # else a child was forked while it was lent: it is the parent's
            self.receive(entry)

    def take_back_from(self, context: Any) -> int:
        """Take back whatever was lent to a context that ends; how many were forgotten."""
        if not self.lent:
            return 0

        def is_its(entry: Entry) -> bool:
            return entry.context is not None and entry.context() is context

        return sum(self._end(entry, is_its) for entry in list(self.lent.values()))

    def collect_dropped(self) -> int:
        """Take back connections that can never come back by themselves; how many that was."""
        return sum(self._end(entry, Entry.is_dropped) for entry in list(self.lent.values()))

    def _end(self, entry: Entry, is_over: Callable[[Entry], bool]) -> bool:
        """End a loan that its borrower does not end, if it is over."""
        number = id(entry.connection)
        if not is_over(entry) or self.lent.pop(number, None) is None:
            return False
        if not is_over(entry):  # given back and lent anew, by other threads, since we looked
            self.lent[number] = entry
            return False
        self.receive(entry)
        return True

    def receive(self, entry: Entry) -> None:
        """End a loan taken out of ``lent``: the connection is shelved again, or closed, and its place comes free."""
        try:
            condition = self.connector.take_back(entry.connection)
            entry.idle_since = now = self.clock()
            entry.used += now - entry.lent_at
            entry.context = None
            if entry.is_reported:
                self._note_return(entry, now)
            entry.borrower = None
            if condition is not _CLEAN:
                with self.lock:
                    self._bad_returns += 1
            if condition is Condition.UNFIT or not COUNTS_ARE_TRUE or entry.expires <= now:
                self.stock.discard(entry, "it could not be lent again")
            else:
                entry.shelf.append(entry)
                if self.stock.is_full:
                    self.stock.trim(entry)
        finally:
            line = self.line
            if line.is_calm:
                line.free.append(None)
                if not line.is_calm:
                    line.tend()
            else:
                line.give()

    def suspect(self, name: str) -> None:
        """Trace the loans of this borrower from now on."""
        self.suspects.add(name)
        self.is_tracing = True

    def _note_return(self, entry: Entry, now: float) -> None:
        log.warning(
            "%s: %s gave its connection back after %.0f s", self.name, entry.borrower_name(), now - entry.lent_at
        )
        entry.is_reported = False

    # --- looking after it ---

    def add_idle(self, key: Hashable) -> None:
        """Open one connection ahead of need."""
        entry = self.stock.open(key)
        self.connector.take_back(entry.connection)
        self.stock.keep_for_later(entry)

    def check(self) -> int:
        """Ask every idle connection whether it still answers and close those that do not; how many that was."""
        return self.stock.check()

    def holders(self) -> tuple[Holder, ...]:
        """Who has a connection and for how long, the longest first."""
        now = self.clock()
        held = (entry.holder(now) for entry in list(self.lent.values()))
        return tuple(sorted(held, key=lambda holder: -holder.seconds))

    def resize(self, minimum: int, maximum: int) -> None:
        """Change the bounds while running; loans beyond a smaller maximum end when they are given back."""
        if not 0 <= minimum <= maximum or maximum < 1:
            raise ValueError(f"0 <= min <= max and max >= 1 must hold, not min={minimum}, max={maximum}")
        with self.lock:
            more = maximum - self.maximum
            self.minimum, self.maximum = minimum, maximum
        self.stock.resize(maximum)
        self.line.resize(more)

    def drain(self) -> int:
        """Close every idle connection now; how many. Lent ones are closed when they come back."""
        for entry in list(self.lent.values()):
            entry.expires = float("-inf")
        return self.let_go()

    def let_go(self) -> int:
        """Close every idle connection now, before a fork for one; how many that was."""
        return self.stock.close_idle()

    def close(self) -> None:
        """Close what is idle, and what is lent when it comes back; lend nothing more.

        May run in a finalizer, in the middle of anything: it never waits for the lock.
        """
        stock = self.stock
        self.is_closed = stock.is_closed = stock.is_full = True
        if not (stock.lock.locked() or self.lock.locked() or self.line.lock.locked()):
            self.drain()
            self.collect_dropped()  # from now on these are closed, not kept

    def abandon(self) -> None:
        """After a fork, in the child: forget the parent's connections without touching them, and start empty."""
        self.stock.abandon()
        self._start_empty()

    def stats(self) -> PoolStats:
        """How it is, and what it has done since the process began."""
        stock = self.stock
        with self.lock, stock.lock:
            idle = stock.idle()
            parked = sum(entry.is_held() for entry in idle)
            lent = len(self.lent)
            loans = stock.loans()
            return PoolStats(
                pool_min=self.minimum,
                pool_max=self.maximum,
                pool_size=lent + len(idle) - parked,
                pool_available=len(idle) - parked,
                pool_parked=parked,
                requests_waiting=len(self.line.waiters),
                requests_num=loans + self._request_errors,
                requests_immediate=loans - self._late,
                requests_queued=self._queued,
                requests_wait_ms=self._waited * 1000,
                requests_errors=self._request_errors,
                usage_ms=stock.used() * 1000,
                returns_bad=self._bad_returns,
                connections_num=stock.opened,
                connections_ms=stock.opening * 1000,
                connections_errors=stock.errors,
                connections_lost=stock.lost,
            )
