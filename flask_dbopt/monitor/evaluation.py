"""Applies the alert rules to what the books hold: one worker does it for all, and tells what changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Protocol

from flask_dbopt import signals
from flask_dbopt.monitor import rules
from flask_dbopt.monitor.alerts import EVERY, Alert, Finding, Key, Outcome, RuleState, Silence, named, settle
from flask_dbopt.monitor.books import Books
from flask_dbopt.monitor.evidence import Evidence, Facts, Kept, Watches
from flask_dbopt.monitor.figures import EndpointFigures, Worker
from flask_dbopt.monitor.register import Register, Series
from flask_dbopt.settings.alert_rules import ALERT_RULES, FIGURES, nearest

log = logging.getLogger("flask_dbopt.monitoring")

#: Seconds that rules look back.
SLOW_WINDOW, RATIO_WINDOW, EVENT_WINDOW = 300.0, 900.0, 3_600.0
#: What happened in a worker's first seconds is left out of ratios: caches and pools begin empty.
WARMING = 300.0
#: Seconds between two readings: of counters, of all endpoints' quantiles, of what was measured (few times an hour).
COUNTERS_EVERY, ENDPOINTS_EVERY, MEASURED_EVERY = 10.0, 30.0, 60.0
#: Seconds after which it does not count any more what this worker knew to stand: another may have resolved it.
KNOWN_FOR = 60.0
#: Seconds that a silence with an end may last.
LONGEST_SILENCE = 10 * 365 * 86_400.0
#: The kinds of measurements that rules look at.
MEASURED = ("disk", "rows", "rowids")
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
        self._known: tuple[float, list[Alert]] = float("-inf"), []
        self._ailing: set[str] = set()
        self._in_memory_since: float | None = None
        self._counters: Kept[tuple[dict[str, float], dict[str, float]]] = Kept(COUNTERS_EVERY)
        self._endpoints: Kept[Mapping[str, tuple[int, float]]] = Kept(ENDPOINTS_EVERY)
        self._measured: Kept[dict[str, dict[str, Series]]] = Kept(MEASURED_EVERY)
        self.thresholds = thresholds(settings)
        """Where each rule draws its line; None: it is off."""
        self.watches = Watches(self._register)
        self.watches.watch("ledger", self._ledger, 0.0)

    # --- the rules ---

    def evaluate(self, now: float) -> None:
        """Apply the rules, keep what changed, and tell it."""
        if self.watches.take(now):
            self._measured.drop()
        unread = self._books.unread
        standing = self._standing(now)
        evidence = self._evidence(now)
        findings, blind = self._examine(evidence)
        unseen = set(evidence.blind)
        if self._books.unread != unread:
            unseen.add(FIGURES)
            for kept in (self._counters, self._endpoints, self._measured):
                kept.drop()
        blind |= {name for name, rule in ALERT_RULES.items() if rule.probe in unseen}
        outcome = settle(findings, standing, self._well_since, now, blind=blind)
        self._well_since = outcome.well_since
        over = {alert.key for alert in outcome.resolved}
        still = [alert for alert in standing if alert.key not in over]
        self._known = now, [*outcome.raised, *still]
        self._announce(outcome, still, now)

    def _standing(self, now: float) -> list[Alert]:
        """One of each key. What this worker knew a moment ago, and the books have lost, stands all the same."""
        kept = self._register.standing()
        at, known = self._known
        if {alert.id for alert in known} - {alert.id for alert in kept} and 0 <= now - at < KNOWN_FOR:
            there = {alert.id for alert in self._register.alerts()}
            lost = [alert for alert in known if alert.id not in there]
            for alert in lost:
                self._register.save(alert, now)
            kept += lost
        standing: dict[Key, Alert] = {}
        for alert in sorted(kept, key=lambda alert: alert.raised_at):
            if standing.setdefault(alert.key, alert) is not alert:  # raised in memory, while the file was away
                self._register.save(replace(alert, resolved_at=now), now)
        return list(standing.values())

    def _examine(self, evidence: Evidence) -> tuple[list[Finding], set[str]]:
        """What the rules find, and those that could not be applied: facts may be anything."""
        found: list[Finding] = []
        failed: set[str] = set()
        for name, threshold in self.thresholds.items():
            if threshold is not None:
                try:
                    found += rules.judge(name, evidence, threshold)
                except Exception:
                    failed.add(name)
                    if name not in self._ailing:  # only the first of a row
                        log.exception("the rule %s cannot be applied", name)
        self._ailing = set(failed)
        return found, failed

    def rules(self) -> list[RuleState]:
        """Every rule as it is set, and what it finds now."""
        now = self._clock()
        worst: dict[str, Finding] = {}
        for finding in self._examine(self._evidence(now, every_run=True))[0]:
            other = worst.get(finding.rule)
            if other is None or finding.badness > other.badness:
                worst[finding.rule] = finding
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
        slowest: Mapping[str, tuple[float, str]] = {}
        if slow is not None:
            slowest = self._books.peaks(now - SLOW_WINDOW, 0.0 if every_run else slow)
            if every_run and slowest:
                slowest = dict([max(slowest.items(), key=lambda peak: peak[1])])
        since = _ratios_since(now, life)
        lately, hour = self._counters.get(now, lambda: (figures.counters(since), figures.counters(now - EVENT_WINDOW)))
        return Evidence(
            now=now,
            life=life,
            slowest=slowest,
            endpoints=self._endpoints.get(now, lambda: self._quantiles(now)),
            lately=lately,
            hour=hour,
            watched=watched,
            measured=self._measured.get(now, lambda: {kind: self._register.series(kind) for kind in MEASURED}),
            blind=blind,
        )

    def _quantiles(self, now: float) -> Mapping[str, tuple[int, float]]:
        """Requests and p95 by endpoint, if somebody gave the rule a threshold: they take some reading."""
        if self.thresholds["slow_requests"] is None:
            return {}
        listed = self._figures.endpoints(now - RATIO_WINDOW)
        return {each.endpoint: (each.calls, each.p95 / 1000) for each in listed if each.endpoint}

    def _ledger(self) -> Facts:
        now = self._clock()
        if not (self._books.outlive and self._books.problem):
            self._in_memory_since = None
            return {}
        self._in_memory_since = min(now, self._in_memory_since or now)
        return {"ledger": {"memory_since": self._in_memory_since}}

    # --- telling ---

    def _announce(self, outcome: Outcome, still: Iterable[Alert], now: float) -> None:
        """Keep each change; tell it unless it is silenced. What stands ``still`` after its silence is told then."""
        silences, untold = self._held(now), self._register.notes(_UNTOLD)

        def is_silenced(alert: Alert) -> bool:
            return any(each.covers(*alert.key, now) for each in silences)

        unheard = {_name(*alert.key): alert for alert in still}
        for name in untold:
            alert = unheard.get(name)
            if alert is None or not is_silenced(alert):
                self._register.forget(_UNTOLD, name, now)
                if alert is not None:
                    self._tell_raised(alert)
        for alert in outcome.raised:
            self._register.save(alert, now)
            if is_silenced(alert):
                self._register.note(_UNTOLD, _name(*alert.key), alert.raised_at, now)
            else:
                self._tell_raised(alert)
        for alert in outcome.resolved:
            self._register.save(alert, now)
            if not (_name(*alert.key) in untold or is_silenced(alert)):
                self._tell_resolved(alert)
        if outcome.resolved:
            self._register.thin(now)

    def _held(self, now: float) -> list[Silence]:
        """The silences that hold; those that are over are forgotten."""
        every = self._every_silence()
        for each in every:
            if not each.holds(now):
                self._register.forget(_SILENCE, _name(each.rule, each.subject), now)
        return [each for each in every if each.holds(now)]

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
        held = [each for each in self._every_silence() if each.holds(now)]
        return sorted(held, key=lambda silence: -silence.since)

    def _every_silence(self) -> list[Silence]:
        return [Silence(**each) for each in self._register.notes(_SILENCE).values()]

    def silence(self, rule: str, subject: str | None, until: float | None, by: str) -> Silence:
        """Tell nobody of this rule's alerts until then; ValueError for an unknown rule, or no time to come."""
        now = self._clock()
        if rule != EVERY:
            known(rule)
        if until is not None and not now < until <= now + LONGEST_SILENCE:
            raise ValueError("a silence must end in the future, and within ten years; or when it is lifted")
        made = Silence(rule, subject, until, by, now)
        self._register.note(_SILENCE, _name(rule, subject), asdict(made), now)
        log.warning("nobody is told of %s for now: silenced by %s", named(rule, subject), by or "somebody")
        return made

    def unsilence(self, rule: str, subject: str | None) -> bool:
        """Lift the silence that was made for just this rule and subject; whether there was one."""
        now = self._clock()
        there = any((each.rule, each.subject) == (rule, subject) for each in self.silences())
        self._register.forget(_SILENCE, _name(rule, subject), now)
        if there:
            log.warning("people are told of %s again", named(rule, subject))
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
