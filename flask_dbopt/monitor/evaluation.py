"""Applies the alert rules to what the books hold: one worker does it for all, and tells what changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Protocol

from flask_dbopt import signals
from flask_dbopt.monitor import rules
from flask_dbopt.monitor.alerts import EVERY, Alert, Finding, Key, RuleState, Silence, settle
from flask_dbopt.monitor.books import Books
from flask_dbopt.monitor.evidence import Evidence, Facts, Watches
from flask_dbopt.monitor.figures import EndpointFigures, Worker
from flask_dbopt.monitor.register import Register
from flask_dbopt.settings.alert_rules import ALERT_RULES, nearest

log = logging.getLogger("flask_dbopt.monitoring")

#: Seconds that rules look back.
SLOW_WINDOW, RATIO_WINDOW, EVENT_WINDOW = 300.0, 900.0, 3_600.0
#: What happened in a worker's first seconds is left out of ratios: caches and pools begin empty.
WARMING = 300.0
#: Seconds between two looks at all endpoints' quantiles.
ENDPOINTS_EVERY = 30.0
#: Kinds of notes in the register.
_SILENCE, _UNTOLD = "silence", "untold"


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
    @property
    def monitor_retention_days(self) -> float: ...


class Figures(Protocol):
    """What the rules ask of the monitor."""

    def counters(self, since: float | None = None) -> dict[str, float]: ...
    def endpoints(self, since: float | None = None) -> list[EndpointFigures]: ...
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
        self._books = books
        self._register = Register(books)
        self._figures = figures
        self._emit = emit
        self._clock = clock
        self._shown = settings.monitor_retention_days * 86_400
        self._well_since: Mapping[Key, float] = {}
        self._in_memory_since: float | None = None
        self._endpoints: tuple[float, Mapping[str, tuple[int, float]]] = float("-inf"), {}
        self.thresholds = thresholds(settings)
        """Where each rule draws its line; None: it is off."""
        self.watches = Watches(self._register)
        self.watches.watch("ledger", self._ledger, 0.0)

    # --- the rules ---

    def evaluate(self, now: float) -> None:
        """Apply the rules, keep what changed, and tell it."""
        self.watches.take(now)
        evidence = self._evidence(now)
        blind = {name for name, rule in ALERT_RULES.items() if rule.probe in evidence.blind}
        standing = [alert for alert in self._register.alerts() if alert.resolved_at is None]
        findings = rules.examine(evidence, self.thresholds)
        outcome = settle(findings, standing, self._well_since, now, blind=blind)
        self._well_since = outcome.well_since
        self._announce(outcome.raised, outcome.resolved, standing, now)

    def rules(self) -> list[RuleState]:
        """Every rule as it is set, and what it finds now."""
        now = self._clock()
        worst: dict[str, Finding] = {}
        for finding in rules.examine(self._evidence(now, every_run=True), self.thresholds):
            other = worst.get(finding.rule)
            is_worse = other is None or (finding.value > other.value) is not ALERT_RULES[finding.rule].below
            worst[finding.rule] = finding if is_worse or other is None else other
        standing = [alert for alert in self.alerts() if alert.resolved_at is None]
        return [
            RuleState(
                rule,
                self.thresholds[name],
                worst.get(name),
                sum(alert.rule == name for alert in standing),
                sum(alert.rule == name and alert.silence is not None for alert in standing),
            )
            for name, rule in ALERT_RULES.items()
        ]

    def _evidence(self, now: float, *, every_run: bool = False) -> Evidence:
        figures, slow = self._figures, self.thresholds["query_too_slow"]
        life = max((now - worker.started for worker in figures.workers()), default=0.0)
        watched, blind = self.watches.look(now)
        least = 0.0 if every_run else slow
        return Evidence(
            now=now,
            life=life,
            slowest={} if slow is None or least is None else self._books.peaks(now - SLOW_WINDOW, least),
            endpoints=self._quantiles(now),
            lately=figures.counters(_ratios_since(now, life)),
            hour=figures.counters(now - EVENT_WINDOW),
            watched=watched,
            measured={kind: self._register.series(kind) for kind in ("disk", "rows", "rowids")},
            blind=blind,
        )

    def _quantiles(self, now: float) -> Mapping[str, tuple[int, float]]:
        """Requests and p95 by endpoint, if somebody gave the rule a threshold: they take some reading."""
        if self.thresholds["slow_requests"] is None:
            return {}
        asked, found = self._endpoints
        if not 0 <= now - asked < ENDPOINTS_EVERY:
            listed = self._figures.endpoints(now - RATIO_WINDOW)
            found = {each.endpoint: (each.calls, each.p95 / 1000) for each in listed if each.endpoint}
            self._endpoints = now, found
        return found

    def _ledger(self) -> Facts:
        now = self._clock()
        if not (self._books.outlive and self._books.problem):
            self._in_memory_since = None
            return {}
        self._in_memory_since = min(now, self._in_memory_since or now)
        return {"ledger": {"memory_since": self._in_memory_since}}

    # --- telling ---

    def _announce(
        self, raised: Iterable[Alert], resolved: Iterable[Alert], standing: Iterable[Alert], now: float
    ) -> None:
        """Keep each change; tell it unless it is silenced. What outlives its silence is told then."""
        silences, untold = self.silences(), self._register.notes(_UNTOLD)
        for alert in raised:
            self._register.save(alert, now)
            if any(each.covers(alert.rule, alert.subject, now) for each in silences):
                self._register.note(_UNTOLD, _name(alert.rule, alert.subject), alert.raised_at, now)
            else:
                self._tell_raised(alert)
        over = {(alert.rule, alert.subject) for alert in resolved}
        for alert in standing:
            name = _name(alert.rule, alert.subject)
            silenced = any(each.covers(alert.rule, alert.subject, now) for each in silences)
            if name in untold and not silenced and (alert.rule, alert.subject) not in over:
                self._register.forget(_UNTOLD, name, now)
                self._tell_raised(alert)
        for alert in resolved:
            self._register.save(alert, now)
            name = _name(alert.rule, alert.subject)
            if name in untold:
                self._register.forget(_UNTOLD, name, now)
            elif not any(each.covers(alert.rule, alert.subject, now) for each in silences):
                self._tell_resolved(alert)

    def _tell_raised(self, alert: Alert) -> None:
        log.warning("alert %s: %s", alert.rule, alert.message)
        self._emit("alert_raised", alert=alert)

    def _tell_resolved(self, alert: Alert) -> None:
        log.info("alert %s is resolved: %s", alert.rule, alert.message)
        self._emit("alert_resolved", alert=alert)

    def alerts(self) -> list[Alert]:
        """Standing alerts, the newest first, then those that were resolved, for as long as figures are kept."""
        now, silences = self._clock(), self.silences()
        standing, resolved = [], []
        for alert in self._register.alerts():
            if alert.resolved_at is None:
                quiet = (each for each in silences if each.covers(alert.rule, alert.subject, now))
                standing.append(replace(alert, silence=next(quiet, None)))
            elif alert.resolved_at > now - self._shown:
                resolved.append(alert)
        return standing + resolved

    # --- silences ---

    def silences(self) -> list[Silence]:
        """Those that hold, the newest first."""
        now = self._clock()
        every = (Silence(**each) for each in self._register.notes(_SILENCE).values())
        held = [each for each in every if each.until is None or now < each.until]
        return sorted(held, key=lambda silence: -silence.since)

    def silence(self, rule: str, subject: str | None, until: float | None, by: str) -> Silence:
        """Tell nobody of this rule's alerts until then; ValueError for an unknown rule, or a time gone by."""
        now = self._clock()
        if rule != EVERY:
            known(rule)
        if until is not None and until <= now:
            raise ValueError("a silence must end in the future")
        made = Silence(rule, subject, until, by, now)
        self._register.note(_SILENCE, _name(rule, subject), asdict(made), now)
        log.warning("alerts of %s are silenced by %s", _words(rule, subject), by or "somebody")
        return made

    def unsilence(self, rule: str, subject: str | None) -> bool:
        """Lift the silence that was made for just this rule and subject; whether there was one."""
        now = self._clock()
        there = any((each.rule, each.subject) == (rule, subject) for each in self.silences())
        self._register.forget(_SILENCE, _name(rule, subject), now)
        if there:
            log.warning("alerts of %s are told again", _words(rule, subject))
        return there


def thresholds(settings: AlertSettings) -> dict[str, float | None]:
    """Each rule's threshold: of DBOPT_ALERT_RULES, else of its own setting, else its default."""
    chosen: dict[str, float | None] = {}
    for name, rule in ALERT_RULES.items():
        own = getattr(settings, rule.setting) if rule.setting else rule.default
        given = settings.alert_rules.get(name, own)
        chosen[name] = None if given is False or given is None else float(given)
    return chosen


def known(rule: str) -> str:
    """``rule``, if there is one of this name; ValueError, with the nearest, if not."""
    if rule not in ALERT_RULES:
        raise ValueError(f"there is no alert rule {rule!r}; the nearest is {nearest(rule)!r}")
    return rule


def _ratios_since(now: float, life: float) -> float:
    """Where the ratios' window begins: once they are judged, not before the oldest worker was warm."""
    begin = now - RATIO_WINDOW
    return max(begin, now - life + WARMING) if life >= rules.LEAST_LIFE else begin


def _name(rule: str, subject: str | None) -> str:
    return json.dumps([rule, subject])


def _words(rule: str, subject: str | None) -> str:
    named = "every rule" if rule == EVERY else rule
    return named if subject is None else f"{named} about {subject}"
