"""``flask db-opt monitor``: the figures as they move, as ``top`` does it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from flask_dbopt.cli.terminal import FINDING, FINE, Screen, how_many, length_of_time, verb

if TYPE_CHECKING:
    from flask_dbopt.report import Report


@verb("monitor")
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    metavar="S",
    default=2.0,
    show_default=True,
    help="Seconds between looks.",
)
@click.option("--once", is_flag=True, help="One look, then stop; exits with 1 while an alert is raised.")
@click.option(
    "--since",
    callback=length_of_time,
    metavar="15m",
    default="15m",
    show_default=True,
    help="How far back to look.",
)
@how_many
def command(screen: Screen, interval: float, once: bool, since: float, limit: int) -> int:
    """Watch the app work: live figures of all workers, until Ctrl-C.

    On a terminal this is a screen that renews itself; into a pipe it is one picture after another, with
    --json one line of JSON for each.
    """
    from flask_dbopt.cli.panels import parts
    from flask_dbopt.cli.target import target
    from flask_dbopt.report import as_dict, build

    optimizer = target().optimizer

    def look() -> Report:
        now = time.time()
        return build(optimizer, since=now - since, now=now)

    if once:
        report = look()
        screen.data(as_dict(report))
        for part in parts(report, limit=limit):
            screen.show(part)
        return FINDING if any(alert.resolved_at is None for alert in report.alerts) else FINE
    try:
        if screen.interactive:
            _live(screen, look, interval, limit)
        while True:
            report = look()
            screen.line(as_dict(report))
            screen.show(_picture(report, limit))
            time.sleep(interval)
    except KeyboardInterrupt:
        return FINE


def _live(screen: Screen, look: Any, interval: float, limit: int) -> None:
    from rich.live import Live

    with Live(_picture(look(), limit), console=screen.console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            live.update(_picture(look(), limit), refresh=True)


def _picture(report: Report, limit: int) -> Any:
    """The whole screen at one moment."""
    from rich.console import Group
    from rich.text import Text

    from flask_dbopt.cli.panels import parts
    from flask_dbopt.cli.terminal import at

    head = Text(f"Flask-DBOpt {report.version}   {at(report.at)}   Ctrl-C stops", style="bold")
    return Group(head, Text(""), *parts(report, limit=limit))
