"""An alert's life: raised once, resolved once, silenced in between. Decides only; telling is the caller's business."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from flask_dbopt.settings.alert_rules import ALERT_RULES, AlertRule

#: A rule and one of its subjects.
Key = tuple[str, str]
#: In place of a rule's name: every rule.
EVERY = "*"
#: Alerts of one rule that stand at a time: where all subjects break it, the worst tell enough.
MOST_STANDING = 100


def named(rule: str, subject: str | None) -> str:
    """What a silence is about, as people say it."""
    about = "any alert" if rule == EVERY else rule
    return about if subject is None else f"{about} about {subject}"


@dataclass(frozen=True, slots=True)
class Silence:
    """Somebody wants to hear nothing of a rule for a while: its alerts show and are told nobody."""

    rule: str
    """Its name, or "*" for every rule."""
    subject: str | None
    """None: whatever it is about."""
    until: float | None
    """Unix seconds; None: until it is lifted."""
    by: str
    since: float

    def covers(self, rule: str, subject: str, now: float) -> bool:
        """Whether it holds for an alert of this rule about this subject."""
        return self.rule in (EVERY, rule) and self.subject in (None, subject) and self.holds(now)

    def holds(self, now: float) -> bool:
        """Whether it is not over."""
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule was broken for one subject (a statement, a database); ``resolved_at`` None: it still is."""

    rule: str
    subject: str
    message: str
    value: float
    threshold: float
    raised_at: float
    resolved_at: float | None = None
    silence: Silence | None = None
    """What keeps it quiet now."""

    @property
    def key(self) -> Key:
        """What it is about: of those with one key, one stands."""
        return self.rule, self.subject

    @property
    def id(self) -> tuple[str, str, float]:
        """What tells it from every other."""
        return self.rule, self.subject, self.raised_at

    @property
    def hint(self) -> str:
        """What to do about it."""
        rule = ALERT_RULES.get(self.rule)
        return "" if rule is None else rule.hint.replace("{subject}", self.subject)

    @property
    def state(self) -> str:
        """ "raised", "silenced" (raised, but somebody wants to hear nothing of it) or "resolved"."""
        if self.resolved_at is not None:
            return "resolved"
        return "raised" if self.silence is None else "silenced"


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule, applied to one subject. ``broken`` None: neither broken nor well, so nothing changes."""

    rule: str
    subject: str
    message: str
    value: float
    threshold: float
    broken: bool | None

    @property
    def key(self) -> Key:
        """The same as of its alert."""
        return self.rule, self.subject

    @property
    def is_beyond(self) -> bool:
        """Whether the figure is on the wrong side, even if there is too little to call it broken."""
        return self.value < self.threshold if ALERT_RULES[self.rule].below else self.value > self.threshold

    @property
    def badness(self) -> float:
        """The greater, the worse, among findings of one rule."""
        return -self.value if ALERT_RULES[self.rule].below else self.value


@dataclass(frozen=True, slots=True)
class RuleState:
    """A rule as it is set, and what it finds now."""

    rule: AlertRule
    threshold: float | None
    """None: it is off."""
    worst: Finding | None
    """The subject nearest to, or furthest beyond, the threshold; None where there is not enough to judge by."""
    raised: int
    """How many alerts of it stand, silenced ones included."""
    silenced: int
    """How many of these are silenced."""

    @property
    def state(self) -> str:
        """ "off", "raised", "silenced" (all that stand), "well", or "not judged": there is too little to judge by."""
        if self.threshold is None:
            return "off"
        if self.raised:
            return "raised" if self.raised > self.silenced else "silenced"
        worst = self.worst
        if worst is None:
            return "well" if self.rule.quiet else "not judged"
        return "not judged" if worst.broken is None and worst.is_beyond else "well"

    @property
    def now(self) -> str:
        """The worst figure as people read it; empty where there is none."""
        worst = self.worst
        if worst is None or (worst.broken and not self.rule.below and worst.value <= worst.threshold):
            return ""  # broken for want of something that could be measured
        return self.rule.shown(worst.value)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What changes now, and since when others have been well that may be resolved later."""

    raised: tuple[Alert, ...]
    resolved: tuple[Alert, ...]
    well_since: Mapping[Key, float]


def settle(
    findings: Iterable[Finding],
    standing: Iterable[Alert],
    well_since: Mapping[Key, float],
    now: float,
    *,
    blind: Collection[str] = (),
) -> Outcome:
    """The alerts to raise and those that are resolved.

    One that is well, or no longer found at all, is resolved when it stayed so for its rule's ``calm``. Rules
    whose facts cannot be had are ``blind``: theirs stand as they are. Of each rule so many stand, the worst first.
    """
    by_key = {finding.key: finding for finding in findings}
    stands = {alert.key: alert for alert in standing}
    crowd = Counter(alert.rule for alert in stands.values())
    raised = []
    for f in sorted((f for key, f in by_key.items() if f.broken and key not in stands), key=_worst_first):
        crowd[f.rule] += 1
        if crowd[f.rule] <= MOST_STANDING:
            raised.append(Alert(f.rule, f.subject, f.message, f.value, f.threshold, raised_at=now))
    resolved, waiting = [], {}
    for key, alert in stands.items():
        if alert.rule in blind or (key in by_key and by_key[key].broken is not False):
            continue
        rule = ALERT_RULES.get(alert.rule)
        since = min(now, well_since.get(key, now))
        if rule is not None and now - since < rule.calm:
            waiting[key] = since
        else:
            resolved.append(replace(alert, resolved_at=now))
    return Outcome(tuple(raised), tuple(resolved), waiting)


def _worst_first(finding: Finding) -> tuple[str, float]:
    return finding.rule, -finding.badness
