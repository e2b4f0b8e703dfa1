"""Lends connections, keeps the line, takes them back.

A connection's life. It is opened when somebody asks and none is idle, up to ``maximum`` loans at a time. It is lent to
one borrower, most recently used first, so that a quiet hour leaves the rest to age. ``close()`` brings it back: an open
transaction is rolled back, what the borrower changed on it is undone, and whoever still refers to it can no longer use
it. While somebody does refer to it, it is *parked*: not lent again, since a half-read cursor may hang on to it. It is
closed when it grows old, when its file was replaced, or when its state cannot be undone.

Who asks when all are lent stands in line. For its first millisecond a borrower may be overtaken (handing over at once
would make every loan wait for a thread switch); from then on the next place that comes free is *handed* to it, so
that nobody starves.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any
from weakref import ref

from flask_dbopt.engines.protocol import Condition, Connector, Identity
from flask_dbopt.errors import DBOptError, PoolTimeout
from flask_dbopt.forks import keep_forever
from flask_dbopt.pool.entry import COUNTS_ARE_TRUE, Entry, Holder
from flask_dbopt.pool.stats import PoolStats
from flask_dbopt.signals import Emit, silence

#: Seconds a borrower in line may be overtaken.
_PATIENCE = 0.001
#: Seconds between looks for connections that were dropped without ``close()``, while somebody waits.
_LOOK_AGAIN = 0.05


class _Waiter:
    """One borrower in line."""

    __slots__ = ("granted", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.granted = threading.Lock()
        self.granted.acquire()


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
        self._max_lifetime = max_lifetime
        self._check_after = check_after
        self._chance = chance
        self._start_empty()

    def _start_empty(self) -> None:
        self.lock = threading.Lock()
        self.idle: dict[Hashable, list[Entry]] = {}
        """By connect arguments; the most recently used last. Those still held by somebody are parked."""
        self.lent: dict[int, Entry] = {}
        self._waiters: deque[_Waiter] = deque()
        self._loans = 0
        self.is_closed = False
        self.last_key: Hashable = None
        """The connect arguments asked for last."""
        self.last_identity: Identity | None = None
        """The file that was opened last."""
        self._requests = self._immediate = self._queued = self._request_errors = 0
        self._bad_returns = self._opened = self._open_errors = self._lost = 0
        self._waited = self._used = self._opening = 0.0

    def lend(self, key: Hashable, *, context: Any = None, borrower: str = "", timeout: float | None = None) -> Any:
        """A connection opened with ``key``; its ``close()`` gives it back.

        ``context`` is whatever the loan must not outlive. Raises PoolTimeout when none comes free within ``timeout``
        seconds, and the driver's own error when none can be opened.
        """
        identity = self.connector.identity()
        asked = self.clock()
        with self.lock:
            self._requests += 1
            self.last_key = key
            waiter = None
            entry = None
            doomed: list[Entry] = []
            if self._may_lend(asked):
                self._loans += 1
                entry = self._pick(key, identity, asked, doomed)
                if entry is not None:
                    self._immediate += 1
            else:
                waiter = self._line_up(asked)
        if waiter is not None:
            self._wait(waiter, self.timeout if timeout is None else timeout)
        try:
            if entry is None:
                entry = self._find(key, identity, doomed) or self._open(key)
            elif asked - entry.idle_since > self._check_after and not self.connector.is_alive(entry.connection):
                self.count_lost()
                self.discard(entry, "it no longer answered")
                entry = self._open(key)
            for old in doomed:
                self.discard(old, "its file was replaced" if old.identity != identity else "it grew old")
        except BaseException:
            with self.lock:
                self._request_errors += 1
                self._release()
            raise
        connection = entry.connection
        self.connector.lend(connection, self.take_back)
        entry.lent_at = asked
        entry.borrower = borrower
        entry.context = None if context is None else ref(context)
        self.lent[id(connection)] = entry
        return connection

    def take_back(self, connection: Any) -> None:
        """What a lent connection's ``close()`` calls."""
        entry = self.lent.pop(id(connection), None)
        if entry is None:
            return  # a child was forked while it was lent: it is the parent's
        self._receive(entry)

    def take_back_from(self, context: Any) -> int:
        """Take back whatever was lent to a context that ends; how many were forgotten."""
        forgotten = 0
        for entry in list(self.lent.values()):
            is_its = entry.context is not None and entry.context() is context
            if is_its and self.lent.pop(id(entry.connection), None) is not None:
                self._receive(entry)
                forgotten += 1
        return forgotten

    def _receive(self, entry: Entry) -> None:
        condition = self.connector.take_back(entry.connection)
        now = self.clock()
        keep = condition is not Condition.UNFIT and COUNTS_ARE_TRUE and entry.expires > now
        surplus = None
        entry.context = None
        with self.lock:
            self._used += now - entry.lent_at
            self._bad_returns += condition is not Condition.CLEAN
            if keep and not self.is_closed:
                entry.idle_since = now
                entry.is_reported = False
                self.idle.setdefault(entry.key, []).append(entry)
                surplus = self._surplus(entry)
            else:
                surplus = entry
            self._release()
        if surplus is not None:
            self.discard(surplus, "" if surplus is not entry else "it could not be lent again")

    def _may_lend(self, now: float) -> bool:
        if self.is_closed:
            raise DBOptError(
                f"the pool of {self.name} is closed", hint="the app or the process that it belonged to has ended"
            )
        if self._loans >= self.maximum:
            return False
        return not (self._waiters and now - self._waiters[0].since > _PATIENCE)

    def _pick(self, key: Hashable, identity: Identity | None, now: float, doomed: list[Entry]) -> Entry | None:
        """The connection used last that nobody holds; under the lock. ``doomed`` gets what must be closed."""
        idle = self.idle.get(key)
        if not idle:
            return None
        for at in range(len(idle) - 1, -1, -1):
            entry = idle[at]
            if entry.identity != identity or entry.expires <= now:
                del idle[at]
                doomed.append(entry)
            elif not entry.is_held():
                del idle[at]
                return entry
        return None

    def _surplus(self, back: Entry) -> Entry | None:
        """One idle connection too many, now that ``back`` is back: opened for other arguments, or beside parked ones.

        Parked ones take nobody's place; ``back`` is not one yet, though whoever gives it back still holds it.
        """
        room = self.maximum - (self._loans - 1)
        if sum(map(len, self.idle.values())) <= room:
            return None
        oldest = None
        for idle in self.idle.values():
            for entry in idle:
                if entry is back or not entry.is_held():
                    oldest = oldest or entry
                    room -= 1
        if room >= 0 or oldest is None:
            return None
        self.idle[oldest.key].remove(oldest)
        return oldest

    def _release(self) -> None:
        """A place came free; under the lock. It is handed to whoever has waited long enough."""
        if self._waiters and self.clock() - self._waiters[0].since > _PATIENCE and self._loans <= self.maximum:
            self._waiters.popleft().granted.release()
        else:
            self._loans -= 1

    def _line_up(self, now: float) -> _Waiter:
        if self.max_waiting and len(self._waiters) >= self.max_waiting:
            self._request_errors += 1
            raise PoolTimeout(
                f"{len(self._waiters)} borrowers of {self.name} wait already",
                hint="raise DBOPT_POOL_MAX_WAITING, or find out who holds the connections: dbopt.pool.holders()",
            )
        waiter = _Waiter(now)
        self._waiters.append(waiter)
        self._queued += 1
        return waiter

    def _wait(self, waiter: _Waiter, timeout: float) -> None:
        """Wait until a place is ours. Raises PoolTimeout."""
        pause = _PATIENCE
        spent = 0.0  # counted as well, so that a clock that stands still keeps nobody waiting for ever
        while True:
            pause = min(pause, max(0.0, timeout - spent))
            handed = waiter.granted.acquire(timeout=pause)
            if not handed:
                self.collect_dropped()
            with self.lock:
                now = self.clock()
                if handed or waiter not in self._waiters:
                    break
                if self._waiters[0] is waiter and self._loans < self.maximum:
                    self._waiters.popleft()
                    self._loans += 1
                    break
                spent = max(spent + pause, now - waiter.since)
                if spent >= timeout:
                    self._waiters.remove(waiter)
                    self._request_errors += 1
                    self._waited += spent
                    raise self._timed_out(timeout)
            if pause == _LOOK_AGAIN and spent < 3 * _LOOK_AGAIN:
                gc.collect()  # what was dropped inside a reference cycle comes back only now
            pause = _LOOK_AGAIN
        with self.lock:
            self._waited += max(0.0, self.clock() - waiter.since)

    def _timed_out(self, timeout: float) -> PoolTimeout:
        holders = sorted(self.holders(), key=lambda holder: -holder.seconds)
        oldest = f" (oldest {holders[0].seconds:.0f} s, {holders[0].name})" if holders else ""
        self.emit("pool_timeout", database=self.name, waited=timeout)
        return PoolTimeout(
            f"no connection within {timeout:g} s; {len(holders)} of {self.maximum} are lent{oldest}",
            hint="close connections sooner, or raise DBOPT_POOL_MAX",
        )

    def _find(self, key: Hashable, identity: Identity | None, doomed: list[Entry]) -> Entry | None:
        """An idle connection after all: somebody gave one back meanwhile, or dropped one without ``close()``."""
        if self.lent:
            self.collect_dropped()
        with self.lock:
            return self._pick(key, identity, self.clock(), doomed)

    def collect_dropped(self) -> int:
        """Take back connections that can never come back by themselves; how many that was."""
        collected = 0
        for entry in list(self.lent.values()):
            if entry.is_dropped() and self.lent.pop(id(entry.connection), None) is not None:
                self._receive(entry)
                collected += 1
        return collected

    def _open(self, key: Hashable) -> Entry:
        started = self.clock()
        try:
            connection, identity = self.connector.open(key)
        except Exception:
            self._open_errors += 1
            raise
        now = self.clock()
        # Not all at the same age, or they would all be replaced in the same moment.
        lifetime = self._max_lifetime * (0.9 + 0.1 * self._chance())
        entry = Entry(connection, key, identity, now, now + lifetime)
        del connection
        entry.calibrate()
        self._opened += 1
        self.last_identity = identity
        self._opening += now - started
        return entry

    def add_idle(self, key: Hashable) -> None:
        """Open one connection ahead of need."""
        entry = self._open(key)
        self.connector.take_back(entry.connection)
        with self.lock:
            self.idle.setdefault(key, []).insert(0, entry)

    def discard(self, entry: Entry, reason: str) -> None:
        """Really close a connection that is in nobody's list any more."""
        self.connector.close(entry.connection)
        if reason:
            self.emit("connection_recycled", database=self.name, reason=reason)

    def count_lost(self) -> None:
        """A connection was found dead."""
        with self.lock:
            self._lost += 1

    def holders(self) -> tuple[Holder, ...]:
        """Who has a connection, and for how long."""
        now = self.clock()
        return tuple(Holder(entry.borrower, now - entry.lent_at) for entry in list(self.lent.values()))

    def resize(self, minimum: int, maximum: int) -> None:
        """Change the bounds while running; loans beyond a smaller maximum end when they are given back."""
        if not 0 <= minimum <= maximum or maximum < 1:
            raise ValueError(f"0 <= min <= max and max >= 1 must hold, not min={minimum}, max={maximum}")
        with self.lock:
            self.minimum, self.maximum = minimum, maximum

    def drain(self) -> int:
        """Close every idle connection now; how many. Lent ones are closed when they come back."""
        for entry in list(self.lent.values()):
            entry.expires = 0.0
        return self.let_go()

    def let_go(self) -> int:
        """Close every idle connection now, before a fork for one; how many that was."""
        with self.lock:
            entries = [entry for idle in self.idle.values() for entry in idle]
            self.idle.clear()
        for entry in entries:
            self.discard(entry, "")
        return len(entries)

    def close(self) -> None:
        """Close what is idle, and what is lent when it comes back; lend nothing more.

        May run in a finalizer, in the middle of anything: it never waits for the lock.
        """
        self.is_closed = True
        if self.lock.acquire(blocking=False):
            self.lock.release()
            self.drain()

    def abandon(self) -> None:
        """After a fork, in the child: forget the parent's connections without touching them, and start empty."""
        for entry in [*self.lent.values(), *(entry for idle in self.idle.values() for entry in idle)]:
            keep_forever(entry.connection)
        self._start_empty()

    def stats(self) -> PoolStats:
        with self.lock:
            idle = [entry for entries in self.idle.values() for entry in entries]
            parked = sum(entry.is_held() for entry in idle)
            lent = len(self.lent)
            return PoolStats(
                pool_min=self.minimum,
                pool_max=self.maximum,
                pool_size=lent + len(idle) - parked,
                pool_available=len(idle) - parked,
                pool_parked=parked,
                requests_waiting=len(self._waiters),
                requests_num=self._requests,
                requests_immediate=self._immediate,
                requests_queued=self._queued,
                requests_wait_ms=self._waited * 1000,
                requests_errors=self._request_errors,
                usage_ms=self._used * 1000,
                returns_bad=self._bad_returns,
                connections_num=self._opened,
                connections_ms=self._opening * 1000,
                connections_errors=self._open_errors,
                connections_lost=self._lost,
            )
