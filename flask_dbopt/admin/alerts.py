"""Alerts: what stands, what is silenced, what each rule finds now, and what is well again."""

from __future__ import annotations

from dataclasses import dataclass

from flask_dbopt.admin.desk import Done, Missing, Page, Visit
from flask_dbopt.admin.wording import span
from flask_dbopt.audit.actor import current
from flask_dbopt.monitor.alerts import EVERY, RuleState, named
from flask_dbopt.settings.alert_rules import ALERT_RULES

#: Resolved alerts that are listed; JSON has all that are kept.
SHOWN = 50
#: For how long alerts can be silenced from here, in hours; None: until it is lifted.
LENGTHS: dict[str, tuple[str, float | None]] = {
    "1": ("1 hour", 1.0),
    "4": ("4 hours", 4.0),
    "24": ("1 day", 24.0),
    "168": ("1 week", 168.0),
    "": ("until it is lifted", None),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One rule as it is set, and what it finds now."""

    name: str
    sentence: str
    now: str
    """The worst figure; empty where there is not enough to judge by."""
    subject: str
    tone: str
    state: str
    source: str
    """Where its threshold comes from."""


def show(visit: Visit) -> Page:
    alerts = visit.report.alerts
    resolved = [alert for alert in alerts if alert.state == "resolved"]
    tidings = visit.optimizer.tidings
    return Page(
        "alerts",
        "Alerts",
        "alerts.html",
        {
            "report": visit.report,
            "raised": [alert for alert in alerts if alert.state == "raised"],
            "silenced": [alert for alert in alerts if alert.state == "silenced"],
            "silences": visit.optimizer.monitor.silences(),
            "resolved": resolved[:SHOWN],
            "older": len(resolved) - SHOWN,
            "rules": [row(visit, state) for state in visit.optimizer.monitor.rules()],
            "lengths": LENGTHS,
            "webhook": None if tidings.courier is None else tidings.courier.host,
            "webhook_problem": "" if tidings.courier is None else tidings.courier.problem,
        },
        windowed=False,
    )


def row(visit: Visit, state: RuleState) -> Row:
    """A rule as the table shows it."""
    rule, worst = state.rule, state.worst
    field = "alert_rules" if rule.name in visit.settings.alert_rules else rule.setting
    words = {"raised": f"{state.raised - state.silenced} raised", "silenced": f"{state.silenced} silenced"}
    return Row(
        rule.name,
        rule.sentence(state.threshold),
        state.now,
        "" if worst is None or worst.subject in (rule.about, "monitor", "ledger") else worst.subject,
        {"raised": "bad", "silenced": "warn", "well": "good"}.get(state.state, ""),
        words.get(state.state, state.state),
        visit.optimizer.sources.get(field, "default"),
    )


def silence(visit: Visit) -> Done:
    """Tell nobody of a rule's alerts for a while."""
    rule, subject = _asked(visit)
    words, hours = LENGTHS.get(visit.form.get("hours", "1"), ("", 0.0))
    if hours == 0.0:
        raise Missing("alerts are silenced for 1, 4, 24 or 168 hours, or until it is lifted")
    actor = current()
    by = str((actor.about.get("name") if actor is not None else "") or "the admin page")
    visit.optimizer.monitor.silence(rule, subject, hours=hours, by=by)
    return Done(f"Nobody is told of {named(rule, subject)} for {words}.".replace("for until", "until"), "alerts")


def unsilence(visit: Visit) -> Done:
    """Tell them again."""
    rule, subject = _asked(visit)
    if not visit.optimizer.monitor.unsilence(rule, subject):
        return Done(f"There was no silence of {named(rule, subject)}.", "alerts", "note")
    return Done(f"People are told of {named(rule, subject)} again.", "alerts")


def test(visit: Visit) -> Done:
    """Post a test to the webhook."""
    reply = visit.optimizer.tidings.test()
    if reply is None:
        raise Missing("there is no webhook: DBOPT_ALERT_WEBHOOK is not set")
    told = f"The webhook {reply.told} after {span(reply.seconds)}."
    return Done(told, "alerts", "good" if reply.taken else "bad")


def _asked(visit: Visit) -> tuple[str, str | None]:
    """The rule and the subject that a form is about."""
    rule = visit.form.get("rule", "")
    if rule != EVERY and rule not in ALERT_RULES:
        raise Missing(f"there is no alert rule {rule!r}")
    return rule, visit.form.get("subject", "").strip() or None
