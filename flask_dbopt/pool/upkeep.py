"""What a pool needs now and then: checks, refills, and an eye on loans that never end."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flask_dbopt.pool.entry import Entry
from flask_dbopt.pool.pool import Pool

log = logging.getLogger("flask_dbopt.connection_pool")


class Upkeep:
    """One pool's housekeeping; ``sweep`` is called every few seconds, on the housekeeper's thread."""

    def __init__(self, pool: Pool, *, health_interval: float, idle_timeout: float, leak_after: float) -> None:
        """All in seconds."""
        self._pool = pool
        self._health_interval = health_interval
        self._idle_timeout = idle_timeout
        self._leak_after = leak_after
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
            self.check()
        self.refill()

    def check(self) -> int:
        """Ask every idle connection whether it still answers and replace those that do not; how many that was."""
        pool = self._pool
        lost = 0
        for entry, _ in self._take(lambda entry: "" if entry.is_held() else "checked"):
            if pool.connector.is_alive(entry.connection):
                with pool.lock:
                    pool.idle.setdefault(entry.key, []).insert(0, entry)
            else:
                pool.count_lost()
                pool.discard(entry, "it no longer answered")
                lost += 1
        self.refill()
        return lost

    def refill(self) -> None:
        """Open up to the minimum, for the arguments asked for last; nothing before anybody asked at all."""
        pool = self._pool
        key = pool.last_key
        if key is None or pool.is_closed:
            return
        if pool.last_identity is not None and pool.connector.identity() is None:
            return  # the file was deleted: to make it anew is the app's to do
        for _ in range(pool.minimum - len(pool.lent) - len(pool.idle.get(key, ()))):
            try:
                pool.add_idle(key)
            except Exception:
                log.warning("%s: no connection could be opened ahead of need", pool.name, exc_info=True)
                return

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

        for entry, why in self._take(reason):
            pool.discard(entry, why)

    def _report_leaks(self, now: float) -> None:
        for entry in list(self._pool.lent.values()):
            age = now - entry.lent_at
            if age > self._leak_after and not entry.is_reported:
                entry.is_reported = True
                log.warning("%s: %s has held a connection for %.0f s", self._pool.name, entry.borrower, age)
                self._pool.emit("connection_leaked", database=self._pool.name, borrower=entry.borrower, age=age)

    def _take(self, reason: Callable[[Entry], str]) -> list[tuple[Entry, str]]:
        """Take idle connections out of the pool's lists, so that nobody lends them meanwhile."""
        taken = []
        with self._pool.lock:
            for key, idle in self._pool.idle.items():
                left = []
                for entry in idle:
                    if why := reason(entry):
                        taken.append((entry, why))
                    else:
                        left.append(entry)
                self._pool.idle[key] = left
        return taken
