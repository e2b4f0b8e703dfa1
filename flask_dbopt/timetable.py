"""When backups are due, and taking those that are: for whoever keeps the schedule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from flask_dbopt.audit.actor import Actor, acting
from flask_dbopt.backup.repository import FolderBusy
from flask_dbopt.databases import Database
from flask_dbopt.errors import BackupError, DBOptError

log = logging.getLogger("flask_dbopt")


class Schedule(Protocol):
    """What the scheduler's bridge offers: jobs that only the lease holder runs."""

    problem: str

    def add(
        self, job_id: str, hours: float, job: Callable[[], object], first_in_seconds: Callable[[], float]
    ) -> None: ...
    def start(self) -> bool: ...
    def stop(self, timeout: float = 5.0) -> bool: ...
    def abandon(self) -> None: ...


class Timetable:
    """The scheduled backups of one app's databases, every ``hours``."""

    def __init__(self, databases: Mapping[str, Database], hours: float, clock: Callable[[], float]) -> None:
        self._databases = databases
        self._hours = hours
        self._clock = clock

    def back_up(self) -> None:
        """Back up every database whose backup is due; one that fails does not keep the others from theirs."""
        with acting(Actor("scheduler")):
            for database in list(self._databases.values()):
                self._back_up(database)

    def _back_up(self, database: Database) -> None:
        backups = database.backups
        if backups is None or database.path is None or not database.path.exists():
            return
        try:
            # A little early counts: the scheduler's clock and ours need not agree to the second.
            if backups.is_due(self._hours * 0.98, self._clock()):
                backups.take()
        except FolderBusy:
            return  # somebody takes one by hand this moment
        except DBOptError as error:
            log.warning("%s was not backed up: %s", database.name, error)

    def due(self, name: str) -> float | None:
        """When a database's next backup is due, or was; None where it has no backups, or they cannot be read."""
        database = self._databases.get(name)
        if database is None or database.backups is None:
            return None
        # An unreadable catalog is told of where a backup is taken, and where backups are shown.
        with suppress(BackupError):
            return database.backups.due_at(self._hours, self._clock())
        return None

    def until_due(self) -> float:
        """Seconds until the first database's backup is due: at once, where there is none yet."""
        now = self._clock()
        due = (self.due(name) for name in list(self._databases))
        return max(1.0, min((at for at in due if at is not None), default=now + self._hours * 3600) - now)
