"""How the databases are: whether they can be served from, and where they are not at their best."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flask_dbopt.databases import Database
from flask_dbopt.monitor.alerts import Alert


@dataclass(frozen=True, slots=True)
class Health:
    """For a load balancer."""

    ok: bool
    """Whether requests can be served."""
    status: str
    """"ok" or "degraded"."""
    reasons: tuple[str, ...]


def judged(databases: Iterable[Database], alerts: Iterable[Alert]) -> Health:
    """Whether the databases can be worked with, and what else is not as it should be.

    A raised alert degrades but leaves ``ok``: a slow query must not make a load balancer take every worker out.
    """
    raised = [f"alert: {alert.message}" for alert in alerts if alert.state == "raised"]
    missing = [
        f"{database.name}: {database.path} is missing"
        for database in databases
        if database.path is not None and not database.path.exists()
    ]
    return Health(ok=not missing, status="degraded" if missing or raised else "ok", reasons=(*missing, *raised))


def flaws(databases: Iterable[Database]) -> Iterator[str]:
    """What is not as the settings want it, as sentences."""
    for database in databases:
        for fault in () if database.connector is None else database.connector.faults:
            if fault.pragma != "journal_mode" or not _is_empty(database):
                yield f"{database.name}: PRAGMA {fault.pragma} is {fault.found}, not {fault.wanted}"
        if database.lane is not None and database.lane.problem:
            yield f"{database.name}: its processes take no turns to write: {database.lane.problem}"


def _is_empty(database: Database) -> bool:
    """Whether its file has no content, and so no journal mode: it gets one with its first table."""
    try:
        return database.path is not None and database.path.stat().st_size == 0
    except FileNotFoundError:
        return True
