"""An alert's life: raised once, resolved once, silenced in between. Decides only; telling is the caller's business."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from flask_dbopt.settings.alert_rules import ALERT_RULES, AlertRule

#: A rule and one of its subjects.
Key = tuple[str, str]
#: In place of a rule's name: every rule.
EVERY = "*"


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
        return (
            self.rule in (EVERY, rule) and self.subject in (None, subject) and (self.until is None or now < self.until)
        )


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
        return "well" if self.rule.quiet or self.worst is not None else "not judged"

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
    whose watch failed are ``blind``: theirs stand as they are.
    """
    by_key = {(finding.rule, finding.subject): finding for finding in findings}
    stands = {(alert.rule, alert.subject): alert for alert in standing}
    raised = [
        Alert(f.rule, f.subject, f.message, f.value, f.threshold, raised_at=now)
        for key, f in by_key.items()
        if f.broken and key not in stands
    ]
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
