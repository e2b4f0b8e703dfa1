"""Backup status: what can be restored, when that was last proved, and when the next one is taken."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from flask_dbopt.admin import charts
from flask_dbopt.admin.desk import Done, Missing, Page, Visit
from flask_dbopt.admin.wording import seconds, size
from flask_dbopt.backup.repository import BackupRecord
from flask_dbopt.report import DatabaseReport

log = logging.getLogger("flask_dbopt.admin")

SHOWN = 50


@dataclass(frozen=True, slots=True)
class Safety:
    """One database's answer to "could we go back?"."""

    database: DatabaseReport
    newest: BackupRecord | None
    """The latest that proved; None when none ever did."""
    overdue: bool
    total_bytes: int
    days: str
    """The last 30 days as a strip."""


def show(visit: Visit) -> Page:
    return Page(
        "backups",
        "Backups",
        "backups.html",
        {
            "report": visit.report,
            "safeties": [safety(visit, each) for each in visit.report.databases if has_backups(visit, each)],
            "without": [each for each in visit.report.databases if not has_backups(visit, each)],
            "several": len(visit.report.databases) > 1,
            "shown": SHOWN,
        },
        windowed=False,
    )


def has_backups(visit: Visit, each: DatabaseReport) -> bool:
    database = visit.optimizer.databases.get(each.name)
    return bool(each.backups) or (database is not None and database.backups is not None)


def safety(visit: Visit, database: DatabaseReport) -> Safety:
    proved = [backup for backup in database.backups if backup.verified_at is not None]
    newest = max(proved, key=lambda backup: backup.taken_at, default=None)
    # half an interval of grace: a backup takes its time, and workers restart
    late = visit.settings.backup_interval_hours * 3600 * 1.5
    overdue = visit.settings.backup_enabled and newest is not None and visit.now - newest.taken_at > late
    marks = [
        (
            b.taken_at,
            "good" if b.verified_at else "bad" if b.proof else "warn",
            f"{b.id}: {b.proof or 'not proved'}",
        )
        for b in database.backups
    ]
    return Safety(
        database,
        newest,
        overdue,
        sum(backup.bytes for backup in database.backups),
        charts.days(f"Backups of {database.name}", marks, visit.now),
    )


def take(visit: Visit) -> Done:
    backups = _backups(visit, visit.form.get("database", "default"))
    label = visit.form.get("label", "").strip()[:80] or None
    record: BackupRecord = backups.take(label=label)
    log.warning("the admin page took the backup %s", record.id)
    proved = "restored and checked" if record.verified_at else "not checked yet"
    return Done(f"Backup {record.id} is kept: {size(record.bytes)} in {seconds(record.seconds)}, {proved}.", "backups")


def verify(visit: Visit) -> Done:
    backups = _backups(visit, visit.form.get("database", "default"))
    record: BackupRecord = backups.verify(visit.form.get("backup", ""))
    if record.verified_at is None:
        return Done(f"Backup {record.id} did not prove: {record.proof}", "backups", "bad")
    return Done(f"Backup {record.id} was restored and checked: {record.proof}", "backups")


def _backups(visit: Visit, name: str) -> Any:
    database = visit.optimizer.databases.get(name)
    if database is None or database.backups is None:
        raise Missing(f"the database {name!r} has no backups here")
    return database.backups
