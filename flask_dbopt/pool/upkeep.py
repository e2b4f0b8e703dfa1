"""What a pool needs now and then: checks, refills, and an eye on loans that never end."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from flask_dbopt.pool.entry import Entry
from flask_dbopt.pool.pool import Pool

log = logging.getLogger("flask_dbopt.connection_pool")

#: Seconds after the first failure to connect until the next attempt; doubled each time, up to the second figure.
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0


class Upkeep:
    """One pool's housekeeping; ``sweep`` is called every few seconds, on the housekeeper's thread."""

    def __init__(
        self,
        pool: Pool,
        *,
        health_interval: float,
        idle_timeout: float,
        leak_after: float,
        reconnect_timeout: float = 300.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """All in seconds."""
        self._pool = pool
        self._health_interval = health_interval
        self._idle_timeout = idle_timeout
        self._leak_after = leak_after
        self._reconnect = Reconnect(reconnect_timeout, chance)
        self._checked_at = pool.clock()
        self._parked: set[int] = set()

    def sweep(self, now: float) -> None:
        """``now`` is the housekeeper's; the pool's own clock counts."""
        now = self._pool.clock()
        self._pool.collect_dropped()
        self._report_leaks(now)
        self._retire(now)
        if now - self._checked_at >= self._health_interval:
            self._checked_at = now
            self._pool.check()
        self._refill(now)

    def _refill(self, now: float) -> None:
        """Open up to the minimum, for the arguments asked for last; nothing before anybody asked at all."""
        pool, reconnect = self._pool, self._reconnect
        key = pool.last_key
        if key is None or pool.is_closed or not reconnect.is_due(now):
            return
        if pool.stock.last_identity is not None and pool.connector.identity() is None:
            return  # the file was deleted: to make it anew is the app's to do
        for _ in range(pool.minimum - len(pool.lent) - len(pool.idle.get(key, ()))):
            try:
                pool.add_idle(key)
            except Exception as error:  # noqa: BLE001  # tried again later
                has_given_up = reconnect.failed(now)
                log.warning("%s: no connection could be opened ahead of need: %s", pool.name, error)
                if has_given_up:
                    log.error("%s: no connection could be opened for %g s", pool.name, reconnect.timeout)  # noqa: TRY400
                    if pool.reconnect_failed is not None:
                        pool.reconnect_failed(pool)
                return
            if reconnect.succeeded():
                log.warning("%s: connections can be opened again", pool.name)

    def _retire(self, now: float) -> None:
        """Close what grew old, what nobody needed for long, what lies on a replaced file, and what stays parked."""
        pool = self._pool
        identity = pool.connector.identity()
        kept = pool.stats().pool_size
        parked_before, self._parked = self._parked, set()

        def reason(entry: Entry) -> str:
            nonlocal kept
            if entry.is_held():
                self._parked.add(id(entry))
                return "somebody still held it" if id(entry) in parked_before else ""
            if entry.identity != identity:
                return "its file was replaced"
            if entry.expires <= now:
                return "it grew old"
            if kept > pool.maximum:
                kept -= 1
                return "there were too many"
            if kept > pool.minimum and now - entry.idle_since > self._idle_timeout:
                kept -= 1
                return "nobody needed it"
            return ""

        for entry in pool.stock.idle():
            why = reason(entry)
            if why and pool.stock.claim(entry):
                pool.stock.discard(entry, why)

    def _report_leaks(self, now: float) -> None:
        pool = self._pool
        for entry in list(pool.lent.values()):
            age = now - entry.lent_at
            if age > self._leak_after and not entry.is_reported:
                entry.is_reported = True
                holder = entry.holder(now)
                pool.suspect(holder.name)
                where = f"\n{holder.stack}" if holder.stack else " (its next loans will be traced)"
                log.warning("%s: %s has held a connection for %.0f s%s", pool.name, holder.name, age, where)
                pool.emit("connection_leaked", database=pool.name, borrower=holder.name, age=age, stack=holder.stack)


class Reconnect:
    """When to try again after the database could not be reached, and when to say that it is gone."""

    def __init__(self, timeout: float, chance: Callable[[], float]) -> None:
        """``timeout``: seconds of failures after which it counts as gone; it is tried again all the same."""
        self.timeout = timeout
        self._chance = chance
        self._since: float | None = None
        self._next = 0.0
        self._delay = 0.0
        self._is_told = False

    def is_due(self, now: float) -> bool:
        """Whether to try now; also when the clock went back."""
        return self._since is None or not now < self._next <= now + 2 * _LONGEST_DELAY

    def failed(self, now: float) -> bool:
        """Note a failure; True once, when the time is up."""
        if self._since is None:
            self._since = now
        self._delay = min(self._delay * 2 or _FIRST_DELAY, _LONGEST_DELAY)
        # Not all workers at once, when the database has just come back.
        self._next = now + self._delay * (0.9 + 0.2 * self._chance())
        has_given_up = now - self._since >= self.timeout and not self._is_told
        self._is_told = self._is_told or has_given_up
        return has_given_up

    def succeeded(self) -> bool:
        """Note a success; whether failures came before it."""
        was_lost = self._since is not None
        self._since, self._delay, self._is_told = None, 0.0, False
        return was_lost
