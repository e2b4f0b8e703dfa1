"""What the package tells the app. The sender is the Flask app; everything else comes as keyword arguments."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from blinker import Namespace

log = logging.getLogger("flask_dbopt")

_namespace = Namespace()

query_executed = _namespace.signal("query_executed", "after each statement: sql, seconds, rows, cached, error")
slow_query = _namespace.signal(
    "slow_query", "a statement over DBOPT_MONITOR_SLOW_SECONDS: sql, seconds, endpoint, id, place"
)
n_plus_one_detected = _namespace.signal("n_plus_one_detected", "one request repeated a statement: sql, calls, endpoint")
suspicious_query = _namespace.signal(
    "suspicious_query", "a value of the request changed a statement's shape: sql, endpoint, place, source, blocked"
)
lost_update_detected = _namespace.signal(
    "lost_update_detected", "a request wrote a table that had changed since it read it: database, table, endpoint"
)
cache_hit = _namespace.signal("cache_hit", "a result came from the cache: sql")
cache_miss = _namespace.signal("cache_miss", "a cacheable result was not kept yet: sql")
cache_invalidated = _namespace.signal("cache_invalidated", "kept results were dropped: database, entries")
pool_timeout = _namespace.signal("pool_timeout", "no connection within the time allowed: database, waited")
connection_leaked = _namespace.signal(
    "connection_leaked", "a connection is held too long: database, borrower, age, stack"
)
connection_recycled = _namespace.signal("connection_recycled", "a connection was replaced: database, reason")
backup_started = _namespace.signal("backup_started", "a backup begins: database")
backup_finished = _namespace.signal("backup_finished", "a backup was taken and proved: database, backup")
backup_failed = _namespace.signal("backup_failed", "a backup failed: database, error")
backup_missed = _namespace.signal("backup_missed", "a scheduled backup is overdue: database, due")
restore_finished = _namespace.signal("restore_finished", "a restore is complete: database, backup, target")
index_recommended = _namespace.signal("index_recommended", "new index advice: database, recommendation")
alert_raised = _namespace.signal("alert_raised", "a rule's threshold is passed: alert")
deed_done = _namespace.signal("deed_done", "something was done on somebody's behalf: deed, outcome, details")
alert_resolved = _namespace.signal("alert_resolved", "a raised rule is well again: alert")

#: How a room speaks without knowing the app: ``emit("cache_hit", sql=...)``.
Emit = Callable[..., None]


def send(name: str, sender: object, **details: Any) -> None:
    """Send the signal called ``name``; a receiver that raises is logged and never breaks the caller."""
    signal = _namespace[name]
    for receiver in signal.receivers_for(sender) if signal.receivers else ():
        try:
            receiver(sender, **details)
        except Exception:
            log.exception("a receiver of the signal %s raised", name)


def silence(name: str, **details: Any) -> None:
    """The ``Emit`` of a room that nobody listens to."""
