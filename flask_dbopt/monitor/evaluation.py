"""Applies the alert rules to what the books hold: one worker does it for all, and tells what changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flask_dbopt import signals
from flask_dbopt.monitor import alerts as rules
from flask_dbopt.monitor.alerts import Alert
from flask_dbopt.monitor.books import Books
from flask_dbopt.monitor.figures import Worker
from flask_dbopt.monitor.register import Register

log = logging.getLogger("flask_dbopt.monitoring")

#: Seconds for which a resolved alert is still shown.
RESOLVED_SHOWN = 86_400.0


class AlertSettings(Protocol):
    """The settings that alerts look at."""

    @property
    def alert_slow_query_seconds(self) -> float: ...
    @property
    def alert_cache_hit_ratio(self) -> float: ...
    @property
    def alert_pool_hit_ratio(self) -> float: ...
    @property
    def alert_connection_errors_per_hour(self) -> int: ...
    @property
    def alert_rules(self) -> Mapping[str, Any]: ...


class Figures(Protocol):
    """What the rules ask of the monitor."""

    def counters(self, since: float | None = None) -> dict[str, float]: ...
    def workers(self) -> list[Worker]: ...


class Evaluation:
    """The alerts of one app."""

    def __init__(
        self,
        settings: AlertSettings,
        books: Books,
        figures: Figures,
        emit: signals.Emit,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._books = books
        self._register = Register(books)
        self._figures = figures
        self._emit = emit
        self._clock = clock

    def evaluate(self, now: float) -> None:
        """Apply the alert rules; one worker does it for all."""
        thresholds = self._thresholds()
        figures = self._figures
        life = max((now - worker.started for worker in figures.workers()), default=0.0)
        evidence = rules.Evidence(
            slowest={}
            if thresholds.query_too_slow is None
            else self._books.peaks(now - rules.SLOW_WINDOW, thresholds.query_too_slow),
            lately=figures.counters(rules.ratios_since(now, life)),
            hour=figures.counters(now - rules.ERROR_WINDOW),
            life=life,
        )
        standing = [alert for alert in self._register.alerts() if alert.resolved_at is None]
        raised, resolved = rules.settle(rules.examine(evidence, thresholds), standing, now)
        for alert in raised:
            self._register.save(alert, now)
            log.warning("alert %s: %s", alert.rule, alert.message)
            self._emit("alert_raised", alert=alert)
        for alert in resolved:
            self._register.save(alert, now)
            log.info("alert %s is resolved: %s", alert.rule, alert.message)
            self._emit("alert_resolved", alert=alert)

    def alerts(self) -> list[Alert]:
        """Standing alerts, the newest first, then those resolved within a day."""
        since = self._clock() - RESOLVED_SHOWN
        kept = self._register.alerts()
        resolved = [alert for alert in kept if alert.resolved_at is not None and alert.resolved_at > since]
        return [alert for alert in kept if alert.resolved_at is None] + resolved

    def _thresholds(self) -> rules.Thresholds:
        settings = self._settings
        chosen: dict[str, float | None] = {
            "query_too_slow": settings.alert_slow_query_seconds,
            "cache_hit_ratio": settings.alert_cache_hit_ratio,
            "pool_hit_ratio": settings.alert_pool_hit_ratio,
            "connection_errors": settings.alert_connection_errors_per_hour,
        }
        for name, threshold in settings.alert_rules.items():
            if name in chosen:
                chosen[name] = None if threshold is False else float(threshold)
        return rules.Thresholds(**chosen)
