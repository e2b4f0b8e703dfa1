"""``flask db-opt alerts``: what stands, what was, the rules; and whom to leave in peace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from flask_dbopt.cli.target import target
from flask_dbopt.cli.terminal import FINDING, FINE, Screen, ago, at, length_of_time, number, span, verb
from flask_dbopt.errors import DBOptError
from flask_dbopt.monitor.alerts import named
from flask_dbopt.settings.alert_rules import ALERT_RULES, nearest

if TYPE_CHECKING:
    from flask_dbopt.monitor.alerts import Alert, RuleState, Silence
    from flask_dbopt.monitor.monitor import Monitor
    from flask_dbopt.optimizer import Optimizer

SHOWN = 10
"""Resolved alerts that are listed; JSON has all that are kept."""


def _rule(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """An option's callback: the name of a rule, or * for all."""
    if name is None or name == "*" or name in ALERT_RULES:
        return name
    raise click.BadParameter(f"there is no rule {name!r}; the nearest is {nearest(name)}", context, parameter)


@verb("alerts")
@click.option("--rules", is_flag=True, help="List the rules: thresholds, and what each finds now.")
@click.option("--silence", callback=_rule, metavar="RULE", help="Tell nobody of this rule's alerts; '*' is every rule.")
@click.option("--unsilence", callback=_rule, metavar="RULE", help="Tell them again.")
@click.option("--subject", metavar="S", help="With these two: only alerts about this database, statement, endpoint …")
@click.option(
    "--for",
    "length",
    callback=length_of_time,
    metavar="4h",
    help="With --silence: for how long (30m, 4h, 7d). Without it: until it is lifted.",
)
@click.option("--test-webhook", is_flag=True, help="Post a test to DBOPT_ALERT_WEBHOOK and tell what it answered.")
def command(
    screen: Screen,
    rules: bool,
    silence: str | None,
    unsilence: str | None,
    subject: str | None,
    length: float | None,
    test_webhook: bool,
) -> int:
    """What is wrong now, and what was lately; exits with 1 while an alert stands that nobody has silenced.

    Rules are applied by the app's workers, or by flask db-opt worker; this only tells what they found.
    """
    _check(silence, unsilence, subject, length, test_webhook)
    optimizer = target().optimizer
    if test_webhook:
        return _test(screen, optimizer)
    monitor = optimizer.monitor
    if silence is not None:
        return _silence(screen, monitor, silence, subject, length)
    if unsilence is not None:
        return _unsilence(screen, monitor, unsilence, subject)
    return _list(screen, monitor, with_rules=rules)


def _check(silence: str | None, unsilence: str | None, subject: str | None, length: float | None, test: bool) -> None:
    if (silence is not None) + (unsilence is not None) + test > 1:
        raise click.UsageError("--silence, --unsilence and --test-webhook are different things; say one at a time.")
    if subject is not None and silence is None and unsilence is None:
        raise click.UsageError("--subject goes with --silence or --unsilence.")
    if length is not None and silence is None:
        raise click.UsageError("--for goes with --silence.")


def _list(screen: Screen, monitor: Monitor, *, with_rules: bool) -> int:
    from flask_dbopt.report import plain

    now = time.time()
    alerts = monitor.alerts()
    standing = [alert for alert in alerts if alert.resolved_at is None]
    resolved = [alert for alert in alerts if alert.resolved_at is not None]
    silences = monitor.silences()
    states = monitor.rules() if with_rules or screen.as_json else []
    screen.data({"alerts": plain(alerts), "silences": plain(silences), "rules": plain(states)})
    if standing:
        screen.say("Standing", style="bold")
    for alert in standing:
        _tell(screen, alert, now)
    if not standing:
        screen.say("No alert stands.")
    if silences:
        screen.table(
            ("Silenced", "About", "Until", "By"),
            [
                (named(each.rule, None), each.subject or "everything", _until(each, now), each.by or "–")
                for each in silences
            ],
            title="Silences",
        )
    if resolved:
        screen.table(
            ("Alert", "About", "What", ">Lasted", ">Well since"),
            [_row(alert, now) for alert in resolved[:SHOWN]],
            title=f"Well again ({number(min(SHOWN, len(resolved)))} of {number(len(resolved))})",
        )
    if with_rules:
        screen.table(("Rule", "Raised when", "Now", "State"), [_state(each) for each in states], title="Rules")
    return FINDING if any(alert.state == "raised" for alert in standing) else FINE


def _tell(screen: Screen, alert: Alert, now: float) -> None:
    """One that stands, with what to do about it."""
    quiet = "" if alert.silence is None else f" (silenced {_until(alert.silence, now)})"
    style = "red" if alert.silence is None else "dim"
    screen.say(f"  {alert.rule} · {alert.subject} · since {ago(alert.raised_at, now)}{quiet}", style=style)
    screen.say(f"    {alert.message}")
    screen.say(f"    {alert.hint}", style="dim")


def _row(alert: Alert, now: float) -> tuple[str, ...]:
    ended = alert.resolved_at or now
    return alert.rule, alert.subject, _cut(alert.message), span(ended - alert.raised_at), ago(ended, now)


def _state(state: RuleState) -> tuple[str, ...]:
    rule, worst = state.rule, state.worst
    about = "" if worst is None else f" ({_cut(worst.subject, 30)})"
    count = {"raised": f" {state.raised - state.silenced}", "silenced": f" {state.silenced}"}.get(state.state, "")
    return rule.name, rule.sentence(state.threshold), f"{state.now}{about}" or "–", f"{state.state}{count}"


def _silence(screen: Screen, monitor: Monitor, rule: str, subject: str | None, length: float | None) -> int:
    from flask_dbopt.audit.actor import system_user
    from flask_dbopt.report import plain

    try:
        made = monitor.silence(rule, subject, hours=None if length is None else length / 3600, by=system_user())
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    screen.data(plain(made))
    screen.say(f"Nobody is told of {named(rule, subject)} {_until(made, time.time())}. It still shows here.")
    return FINE


def _unsilence(screen: Screen, monitor: Monitor, rule: str, subject: str | None) -> int:
    if not monitor.unsilence(rule, subject):
        held = ", ".join(named(each.rule, each.subject) for each in monitor.silences()) or "none"
        raise DBOptError(f"{named(rule, subject)} is not silenced", hint=f"silences: {held}")
    screen.data({"rule": rule, "subject": subject, "silenced": False})
    screen.say(f"People are told of {named(rule, subject)} again.")
    return FINE


def _test(screen: Screen, optimizer: Optimizer) -> int:
    reply = optimizer.tidings.test()
    if reply is None:
        raise DBOptError("there is no webhook", hint="set DBOPT_ALERT_WEBHOOK to the address that takes alerts")
    told: dict[str, Any] = {"taken": reply.taken, "told": reply.told, "seconds": reply.seconds}
    screen.data(told)
    screen.say(f"The webhook {reply.told} after {span(reply.seconds)}.", style=None if reply.taken else "red")
    return FINE if reply.taken else FINDING


def _until(silence: Silence, now: float) -> str:
    if silence.until is None:
        return "until it is lifted"
    return f"for {span(silence.until - now)}, until {at(silence.until)}"


def _cut(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
