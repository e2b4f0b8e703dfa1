"""Alerts: which rules are broken now, which were lately, and what each rule watches."""

from __future__ import annotations

from dataclasses import dataclass

from flask_dbopt.admin.desk import Page, Visit
from flask_dbopt.admin.wording import Amount, count, limit, period
from flask_dbopt.settings import SETTINGS


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as its setting has it."""

    name: str
    words: str
    threshold: Amount
    key: str
    source: str
    raised: int
    """How many subjects break it now."""


_RULES = (
    ("query_too_slow", "a query takes longer than", "alert_slow_query_seconds", period),
    ("cache_hit_ratio", "the cache answers less than", "alert_cache_hit_ratio", limit),
    ("pool_hit_ratio", "loans served at once fall below", "alert_pool_hit_ratio", limit),
    ("connection_errors", "connection errors in an hour exceed", "alert_connection_errors_per_hour", count),
)


def show(visit: Visit) -> Page:
    alerts = visit.report.alerts
    return Page(
        "alerts",
        "Alerts",
        "alerts.html",
        {
            "report": visit.report,
            "raised": [alert for alert in alerts if alert.resolved_at is None],
            "resolved": [alert for alert in alerts if alert.resolved_at is not None],
            "rules": rules(visit),
        },
        windowed=False,
    )


def rules(visit: Visit) -> list[Rule]:
    raised = [alert.rule for alert in visit.report.alerts if alert.resolved_at is None]
    return [
        Rule(
            name,
            words,
            unit(getattr(visit.settings, field)),
            SETTINGS[field].key,
            visit.optimizer.sources.get(field, "default"),
            raised.count(name),
        )
        for name, words, field, unit in _RULES
    ]
