"""The same figures as JSON under api/v1, for scripts and other dashboards; and the health check."""

from __future__ import annotations

from typing import Any

from flask_dbopt.admin import audit
from flask_dbopt.admin.desk import Missing, Visit
from flask_dbopt.report import plain
from flask_dbopt.settings import SETTINGS

RESOURCES = (
    "report",
    "overview",
    "queries",
    "requests",
    "indexes",
    "pool",
    "cache",
    "backups",
    "alerts",
    "audit",
    "settings",
    "health",
)


def answer(visit: Visit, resource: str) -> Any:
    """One resource in JSON's types. The words are those of the records."""
    head, _, rest = resource.partition("/")
    if head == "queries" and rest:
        return _query(visit, rest)
    if resource not in RESOURCES:
        raise Missing(f"no figures called {resource}; there are {', '.join(RESOURCES)}")
    if resource == "settings":
        return {
            name: {
                "value": visit.settings.shown(name),
                "source": visit.optimizer.sources.get(name, "default"),
                "key": setting.key,
            }
            for name, setting in SETTINGS.items()
        }
    if resource == "audit":
        return audit.told(visit)
    if resource == "health":
        return plain(visit.optimizer.health())
    report = visit.report
    covered = {
        "at": report.at,
        "since": report.since,
        "workers": len(report.workers),
        "lost_workers": [
            {"pid": each.pid, "host": each.host, "heartbeat": each.heartbeat, "lost_seconds": each.interval}
            for each in report.lost_workers
        ],
    }
    parts: dict[str, Any] = {
        "report": report,
        "overview": {
            **plain(report.overview),
            "series": report.series,
            "endpoints": report.endpoints,
            "notices": report.notices,
            "alerts": [alert for alert in report.alerts if alert.resolved_at is None],
        },
        "queries": {"queries": report.queries, "guarded": report.guarded},
        "requests": {"endpoints": report.endpoints, "requests": report.requests},
        "indexes": {"recommendations": report.recommendations},
        "pool": {
            "databases": {each.name: each.pool for each in report.databases},
            "writers": {
                each.name: {**plain(each.writers), "holders": each.holders}
                for each in report.databases
                if each.writers is not None
            },
            "lost_updates": report.lost_updates,
        },
        "cache": report.cache,
        "backups": {
            "databases": {
                each.name: {"next_backup": each.next_backup, "backups": each.backups} for each in report.databases
            }
        },
        "alerts": {"alerts": report.alerts, **_alerting(visit, resource)},
    }
    found: dict[str, Any] = plain(parts[resource])
    return found if resource == "report" else {**covered, **found}


def _alerting(visit: Visit, resource: str) -> dict[str, Any]:
    """The rules and the silences, where they are asked for."""
    monitor = visit.optimizer.monitor
    return {"silences": monitor.silences(), "rules": monitor.rules()} if resource == "alerts" else {}


def _query(visit: Visit, query_id: str) -> Any:
    query = next((q for q in visit.report.queries if q.id == query_id), None)
    query = query or visit.optimizer.monitor.query(query_id)
    if query is None:
        raise Missing(f"no statement {query_id} is recorded")
    advice = [each for each in visit.report.recommendations if query_id in each.query_ids]
    details = visit.optimizer.monitor.details(query_id)
    return {**plain(query), **plain(details), "recommendations": plain(advice)}
