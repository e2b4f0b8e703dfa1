"""What the logs tell beyond what each room logs by itself: workers, the lease, pools, notices, and a summary."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask_dbopt import signals
from flask_dbopt.databases import Database
from flask_dbopt.logs import Logs
from flask_dbopt.monitor.monitor import Monitor

pool_log = logging.getLogger("flask_dbopt.connection_pool")
query_log = logging.getLogger("flask_dbopt.query_metrics")
backup_log = logging.getLogger("flask_dbopt.backup")
monitoring_log = logging.getLogger("flask_dbopt.monitoring")

SUMMARY_EVERY = 300.0
"""Seconds that a summary is about."""
COSTLIEST = 3
"""Statements that it names."""
REPEATED_AFTER = 3_600.0
"""Seconds after which a notice is told again of which only numbers have changed."""
_NUMBER = re.compile(r"\b\d[\d.,:]*")


class Chronicle:
    """One app's. ``sweep`` is called every few seconds in each worker; it tells what has changed."""

    def __init__(
        self,
        name: str,
        monitor: Monitor,
        databases: Mapping[str, Database],
        notices: Callable[[], Sequence[str]],
        *,
        logs: Logs | None,
        leading: Callable[[], object] = lambda: None,
        version: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``leading`` is called when this worker begins to lead."""
        self.name = name
        self._leading = leading
        self.logs = logs
        self._monitor = monitor
        self._databases = databases
        self._notices = notices
        self._version = version
        self._clock = clock
        self._start_anew()
        if logs is not None:
            logs.open()

    def _start_anew(self) -> None:
        self._is_started = False
        self._is_leading = False
        self._speaks_up = False
        self._pools: set[str] = set()
        self._told: dict[str, tuple[str, float]] = {}
        self._summed_at = self._clock()

    def listen(self, sender: object) -> None:
        """Hear what the rooms of this app tell and do not log."""
        signals.pool_timeout.connect(self._on_timeout, sender)
        signals.connection_recycled.connect(self._on_recycled, sender)
        signals.backup_started.connect(self._on_backup, sender)
        signals.deed_done.connect(self._on_deed, sender)

    # --- what changes ---

    def sweep(self, now: float) -> None:
        """Tell what is new in this worker."""
        if self.logs is not None:
            self.logs.tend()
        self._begin()
        for database in list(self._databases.values()):
            if database.pool is not None and database.name not in self._pools:
                self._pools.add(database.name)
                bounds = database.pool.minimum, database.pool.maximum
                pool_log.info("%s: a pool of %d to %d connections to %s", database.name, *bounds, database.path)
        self._tell_notices(self._clock())

    def _begin(self) -> None:
        if not self._is_started:
            self._is_started = True
            monitoring_log.info("%s: process %d started, Flask-DBOpt %s", self.name, os.getpid(), self._version)

    def _tell_notices(self, now: float) -> None:
        """What came and what went: a warning from one worker, which the app hears of; the others keep to INFO."""
        level = logging.WARNING if self._speaks_up else logging.INFO
        notices = {_NUMBER.sub("#", notice): notice for notice in self._notices()}
        for kind, notice in sorted(notices.items()):
            before, at = self._told.get(kind, ("", 0.0))
            if not before or (before != notice and not 0 <= now - at < REPEATED_AFTER):
                self._told[kind] = notice, now
                monitoring_log.log(level, "%s: %s", self.name, notice)
        for kind in sorted(self._told.keys() - notices.keys()):
            notice, _ = self._told.pop(kind)
            monitoring_log.info("%s: no longer so: %s", self.name, notice)

    def leads(self, is_leading: bool, *, can_be_led: bool = True) -> None:
        """Whether this worker has the lease now; the one that has it sums up, and speaks up, for all.

        ``can_be_led`` False: nobody can have it, so each speaks for itself.
        """
        self._begin()
        speaks_up = is_leading or not can_be_led
        if speaks_up and not self._speaks_up:
            self._told.clear()
        self._speaks_up = speaks_up
        if is_leading != self._is_leading:
            self._is_leading = is_leading
            self._summed_at = self._clock()
            word = "took the lease: alerts and scheduled work run here" if is_leading else "has the lease no more"
            monitoring_log.info("%s: process %d %s", self.name, os.getpid(), word)
            if is_leading:
                self._leading()
        now = self._clock()
        if is_leading and not 0 <= now - self._summed_at < SUMMARY_EVERY:
            since, self._summed_at = max(self._summed_at, now - SUMMARY_EVERY), now
            if query_log.isEnabledFor(logging.INFO):
                self._sum_up(since, now)

    def _sum_up(self, since: float, now: float) -> None:
        """A line for all workers' requests, and one for each of the costliest statements."""
        total, counters = self._monitor.overall(since), self._monitor.counters(since)
        queries = self._monitor.queries(since=since)
        if not total.calls and not queries:
            return
        query_log.info(
            "%s: in %.0f s %d requests (%d failed, p95 %.1f ms), %d queries in %.1f ms, %d repeated within a request; "
            "cache hits %s, immediate loans %s",
            self.name,
            now - since,
            total.calls,
            total.errors,
            total.p95,
            sum(each.calls for each in queries),
            sum(each.total_exec_time for each in queries),
            counters.get("monitor.n_plus_one", 0),
            _share(counters, "hits", ("hits", "misses"), "cache."),
            _share(counters, "requests_immediate", ("requests_num",), "pool."),
        )
        for each in queries[:COSTLIEST]:
            query_log.info(
                "%s: statement %s ran %d times in %.1f ms (mean %.2f ms, %d errors): %s",
                self.name,
                each.id,
                each.calls,
                each.total_exec_time,
                each.mean_exec_time,
                each.errors,
                each.query,
            )

    def close(self) -> None:
        """The worker ends: tell what its pools did."""
        if self._is_started:
            self._is_started = False
            self._tell_the_end()
        if self.logs is not None:
            self.logs.close()

    def _tell_the_end(self) -> None:
        for name in sorted(self._pools):
            pool = self._databases[name].pool
            if pool is not None:
                stats = pool.stats()
                pool_log.info(
                    "%s: the pool is closed after %d loans, %d that had to wait and %d that got none; "
                    "%d connections were opened, %d lost",
                    name,
                    stats.requests_num,
                    stats.requests_queued,
                    stats.requests_errors,
                    stats.connections_num,
                    stats.connections_lost,
                )
        monitoring_log.info("%s: process %d stopped", self.name, os.getpid())

    def abandon(self) -> None:
        """After a fork, in the child: a worker of its own."""
        self._start_anew()

    # --- what the rooms tell ---

    def _on_timeout(self, sender: object, *, database: str, waited: float, **_: Any) -> None:
        pool_log.warning("%s: no connection came free within %.1f s", database, waited)

    def _on_recycled(self, sender: object, *, database: str, reason: str, **_: Any) -> None:
        pool_log.info("%s: a connection was closed: %s", database, reason)

    def _on_backup(self, sender: object, *, database: str, **_: Any) -> None:
        backup_log.info("backup of %s begins", database)

    def _on_deed(self, sender: object, *, deed: str, outcome: str, details: Mapping[str, Any], **_: Any) -> None:
        if deed == "backup.restore" and outcome == "failed":
            backup_log.error("a restore of %s failed: %s", details.get("database"), details.get("reason"))


def _share(counters: Mapping[str, float], part: str, whole: tuple[str, ...], room: str) -> str:
    """A ratio of counters, over all that belong to ``room``; "unused" without any."""

    def summed(figure: str) -> float:
        return sum(n for name, n in counters.items() if name.startswith(room) and name.endswith(f".{figure}"))

    total = sum(summed(each) for each in whole)
    return f"{summed(part) / total:.1%}" if total else "unused"
