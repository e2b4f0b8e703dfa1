"""Where alerts meet the other rooms: events that are counted, facts that are watched, and the webhook."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask_dbopt.backup.repository import BackupRecord
from flask_dbopt.courier import Courier, Reply
from flask_dbopt.databases import Database
from flask_dbopt.engines.sqlite import maintenance
from flask_dbopt.engines.sqlite.sizes import count_tables
from flask_dbopt.errors import BackupError
from flask_dbopt.monitor.alerts import Alert
from flask_dbopt.pool.writers import kind_of
from flask_dbopt.signals import Emit

if TYPE_CHECKING:
    from flask_dbopt.monitor.monitor import Monitor
    from flask_dbopt.settings import Settings

#: The counter that each of these events adds to; the rules about them look at an hour of it.
COUNTED: Mapping[str, str] = {
    "connection_leaked": "leaks.{database}.{borrower}",
    "suspicious_query": "suspicious.{endpoint}",
}
#: The limit of a WAL that is left to SQLite.
WAL_LIMIT = 64 << 20
#: Seconds between two looks at the backup folders.
BACKUPS_EVERY = 60.0
#: Seconds between two measurements, and for how long they are kept.
DISK_EVERY, DISK_KEPT = 300.0, 6 * 3_600.0
TABLES_EVERY, TABLES_KEPT = 3_600.0, 3 * 86_400.0
#: The version of what is posted; it changes when something that is there already does.
FORMAT = 1


class Tidings:
    """An ``Emit`` that also counts what rules look at, posts alerts, and tells of backups that were missed."""

    def __init__(self, emit: Emit, app: str, settings: Settings, version: str) -> None:
        self._emit = emit
        self._app = app
        self._version = version
        self._count: Callable[[str], None] = _nobody
        self._due: Callable[[str], float | None] = _never
        self.page: str | None = None
        """The admin page's address, where it is known."""
        self.courier: Courier | None = None
        if settings.alert_webhook is not None:
            self.courier = Courier(
                settings.alert_webhook, agent=f"Flask-DBOpt/{version}", secret=settings.alert_webhook_secret
            )

    def heed(self, count: Callable[[str], None], due: Callable[[str], float | None]) -> None:
        """``count`` keeps the counters; ``due`` tells when a database's backup was due."""
        self._count, self._due = count, due

    def __call__(self, name: str, **details: Any) -> None:
        counter = COUNTED.get(name)
        if counter is not None:
            self._count(counter.format_map({key: kind_of(str(value or "")) for key, value in details.items()}))
        self._emit(name, **details)
        if name in ("alert_raised", "alert_resolved"):
            self._tell_on(name.removeprefix("alert_"), details["alert"])

    def _tell_on(self, event: str, alert: Alert) -> None:
        if alert.rule == "backup_overdue" and event == "raised":
            self._emit("backup_missed", database=alert.subject, due=self._due(alert.subject))
        if self.courier is not None:
            self.courier.post(self.letter(event, alert))

    def letter(self, event: str, alert: Alert | None) -> dict[str, Any]:
        """What is posted of an event; without an alert, a test."""
        told = "this is a test; alerts of this app will look like it" if alert is None else alert.message
        return {
            "version": FORMAT,
            "id": uuid.uuid4().hex,
            "event": event,
            "app": self._app,
            "host": socket.gethostname(),
            "alert": None
            if alert is None
            else {
                "rule": alert.rule,
                "subject": alert.subject,
                "message": alert.message,
                "hint": alert.hint,
                "value": alert.value,
                "threshold": alert.threshold,
                "raised_at": alert.raised_at,
                "resolved_at": alert.resolved_at,
            },
            "link": None if self.page is None else f"{self.page}/alerts",
            "text": f"[{self._app}] alert {event}: {told}" if alert else f"[{self._app}] {told}",
            "by": f"Flask-DBOpt {self._version}",
        }

    def notices(self) -> list[str]:
        """What does not arrive, as a sentence."""
        problem = "" if self.courier is None else self.courier.problem
        return [f"alerts do not reach the webhook: {problem}"] if problem else []

    def close(self) -> None:
        """Post what still waits, for about a second."""
        if self.courier is not None:
            self.courier.close()

    def abandon(self) -> None:
        """After a fork, in the child: what waits is the parent's to post."""
        if self.courier is not None:
            self.courier.abandon()

    def test(self) -> Reply | None:
        """Post a test, now and once; None where there is no webhook."""
        return None if self.courier is None else self.courier.try_once(self.letter("test", None))


def watch(
    monitor: Monitor,
    databases: Mapping[str, Database],
    settings: Settings,
    *,
    state_dir: Path | None,
    backup_dir: Path,
) -> None:
    """Offer the rules what they cannot see by themselves."""
    known = databases.values
    monitor.watch("wal", lambda: wal(known(), settings.sqlite_wal_limit or WAL_LIMIT))
    if settings.backup_enabled:
        last: dict[str, dict[str, float]] = {}
        monitor.watch("backup", lambda: backups(known(), settings, last), every=BACKUPS_EVERY)
    places = partial(_places, databases, state_dir, backup_dir if settings.backup_enabled else None)
    monitor.watch("disk", lambda: disks(places()))
    monitor.measure(
        "disk",
        lambda: {"disk": {place: facts["free"] for place, facts in disks(places()).items()}},
        every=DISK_EVERY,
        keep=DISK_KEPT,
    )
    monitor.measure("tables", lambda: tables(known()), every=TABLES_EVERY, keep=TABLES_KEPT)


def wal(databases: Iterable[Database], limit: int) -> dict[str, dict[str, float]]:
    """The size of each WAL, and what it may grow to."""
    return {
        each.name: {"bytes": maintenance.wal_bytes(each.path), "limit": limit}
        for each in list(databases)
        if each.kind == "sqlite" and each.path is not None
    }


def backups(
    databases: Iterable[Database], settings: Settings, last: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """When the newest good backup of each database was taken, and how many in a row nobody can rely on.

    ``last`` keeps what is found: where a folder cannot be read any more, its backups grow older all the same.
    """
    found: dict[str, dict[str, float]] = {}
    for each in list(databases):
        if each.backups is None or each.path is None or not each.path.exists():
            continue
        try:
            listed = [record for record in each.backups.list() if record.kind != "safety"]
        except (BackupError, OSError):
            if each.name not in last:
                raise
            found[each.name] = last[each.name]
            continue
        facts = found[each.name] = last[each.name] = _backup_facts(listed, settings)
        facts["interval"] = settings.backup_interval_hours * 3600
    return found


def _backup_facts(listed: Sequence[BackupRecord], settings: Settings) -> dict[str, float]:
    facts: dict[str, float] = {"backups": len(listed), "unproved": 0}
    for record in listed:
        if record.verified_at is not None or not (settings.backup_verify or record.proof):
            break
        facts["unproved"] += 1
    # One that failed its last check is none, for the schedule too.
    good = [record.taken_at for record in listed if record.verified_at is not None or not record.proof]
    if good:
        facts["newest"] = max(good)
    return facts


def disks(places: Iterable[Path]) -> dict[str, dict[str, float]]:
    """Room on the file systems of these folders, each by the first folder that lies on it."""
    found: dict[int, tuple[str, dict[str, float]]] = {}
    for place in places:
        there = next((each for each in (place, *place.parents) if each.exists()), None)
        if there is None:
            continue
        device, about = there.stat().st_dev, os.statvfs(there)
        if about.f_blocks:
            free, total = float(about.f_bavail * about.f_frsize), float(about.f_blocks * about.f_frsize)
            found.setdefault(device, (str(there), {"free": free, "total": total}))
    return dict(found.values())


def tables(databases: Iterable[Database]) -> dict[str, dict[str, float]]:
    """Rows of every table, "database.table"; of large ones what their rowids span."""
    rows: dict[str, float] = {}
    spans: dict[str, float] = {}
    for each in list(databases):
        if each.kind == "sqlite" and each.path is not None and each.path.exists():
            counted, spanned = count_tables(each.path)
            rows.update((f"{each.name}.{table}", count) for table, count in counted.items())
            spans.update((f"{each.name}.{table}", span) for table, span in spanned.items())
        elif each.planner is not None:
            rows.update((f"{each.name}.{table.name}", table.rows) for table in each.planner.tables().values())
    return {"rows": rows, "rowids": spans}


def _places(databases: Mapping[str, Database], state_dir: Path | None, backup_dir: Path | None) -> list[Path]:
    """The folders that we and the databases write to."""
    folders = [each.path.parent for each in list(databases.values()) if each.path is not None]
    return [*folders, *(each for each in (backup_dir, state_dir) if each is not None)]


def _nobody(name: str) -> None:
    """Counts nothing: nobody keeps figures yet."""


def _never(name: str) -> float | None:
    """Nothing is due: nobody keeps a schedule yet."""
    return None
