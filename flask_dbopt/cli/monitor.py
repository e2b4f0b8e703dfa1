"""``flask db-opt monitor``: the figures as they move, as ``top`` does it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from flask_dbopt.cli.terminal import FINDING, FINE, Screen, how_many, length_of_time, verb

if TYPE_CHECKING:
    from rich.console import Console

    from flask_dbopt.cli.dashboard import View
    from flask_dbopt.cli.keyboard import Keyboard
    from flask_dbopt.report import Report

#: What the key w goes through, and the keys + and -: seconds.
WINDOWS = (60.0, 300.0, 900.0, 3600.0, 86_400.0, 604_800.0)
INTERVALS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
#: Seconds after which a screen that was resized is drawn anew.
GLANCE = 0.2
_SUSPEND = "\x1a"


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
@click.option(
    "--sort",
    type=click.Choice(("total", "calls", "mean", "p95", "slowest", "rows", "errors", "last")),
    default="total",
    show_default=True,
    help="What the queries on the live screen are sorted by.",
)
@how_many
def command(screen: Screen, interval: float, once: bool, since: float, sort: str, limit: int) -> int:
    """Watch the app work: live figures of all workers, until q or Ctrl-C.

    On a terminal this is a screen that renews itself and takes keys: q quits, s sorts by the next column,
    p pauses, w looks further back, + and - change the interval, r looks now. Into a pipe it is one picture
    after another, with --json one line of JSON for each.
    """
    from flask_dbopt.cli.panels import parts
    from flask_dbopt.cli.target import target
    from flask_dbopt.report import as_dict, build

    optimizer = target().optimizer

    def look(window: float) -> Report:
        now = time.time()
        return build(optimizer, since=now - window, now=now)

    if once:
        report = look(since)
        screen.data(as_dict(report))
        for part in parts(report, limit=limit):
            screen.show(part)
        return FINDING if any(alert.state == "raised" for alert in report.alerts) else FINE
    try:
        if screen.interactive and not screen.console.is_dumb_terminal:
            from flask_dbopt.cli.dashboard import View

            _watch(look, View(window=since, interval=interval, sort=sort))
            return FINE
        while True:
            report = look(since)
            screen.line(as_dict(report))
            screen.show(_printed(report, limit))
            time.sleep(interval)
    except KeyboardInterrupt:
        return FINE


def _watch(look: Callable[[float], Report], view: View) -> None:
    """The live screen, until its reader has seen enough; it may be left with Ctrl-Z and come back to."""
    from rich.console import Console

    from flask_dbopt.cli.keyboard import Keyboard

    # A console of its own: the usual one wraps lines softly, and here none may be longer than the screen.
    console = Console(highlight=False, emoji=False, markup=False)
    while True:
        with Keyboard() as keyboard, console.screen():
            try:
                left = _session(look, view, console, keyboard)
            except EOFError:
                return
        if left is None:
            return
        view = left
        os.kill(os.getpid(), signal.SIGTSTP)


def _session(look: Callable[[float], Report], view: View, console: Console, keyboard: Keyboard) -> View | None:
    """Look, draw and obey keys. The view with which it was suspended, or None when it was quit."""
    report = look(view.window)
    looked_at = time.monotonic()
    drawn: tuple[Any, ...] = ()
    while True:
        size = console.size
        if drawn != (size, view, report.at):
            _draw(console, report, view)
            drawn = (size, view, report.at)
        due = looked_at + view.interval - time.monotonic()
        key = keyboard.wait(max(0.0, min(GLANCE, due if not view.paused else GLANCE)))
        if key in ("q", "Q"):
            return None
        if key == _SUSPEND:
            return view
        before, view = view, obey(key, view)
        is_due = not view.paused and time.monotonic() >= looked_at + view.interval
        if is_due or view.window != before.window or key in ("r", "R"):
            report = look(view.window)
            looked_at = time.monotonic()


def obey(key: str, view: View) -> View:
    """The view that a key asks for."""
    from flask_dbopt.cli.dashboard import SORTS

    sorts = list(SORTS)
    if key in ("s", "S"):
        step = 1 if key == "s" else -1
        return replace(view, sort=sorts[(sorts.index(view.sort) + step) % len(sorts)])
    if key in ("p", "P", " "):
        return replace(view, paused=not view.paused)
    if key in ("w", "W"):
        return replace(view, window=next((each for each in WINDOWS if each > view.window), WINDOWS[0]))
    if key in ("+", "="):
        return replace(view, interval=next((each for each in INTERVALS if each > view.interval), view.interval))
    if key in ("-", "_"):
        shorter = (each for each in reversed(INTERVALS) if each < view.interval)
        return replace(view, interval=next(shorter, view.interval))
    return view


def _draw(console: Console, report: Report, view: View) -> None:
    """The whole screen at once, without clearing it first: it does not flicker."""
    from rich.console import Group
    from rich.control import Control
    from rich.screen import Screen as Whole

    from flask_dbopt.cli.dashboard import picture

    width, height = console.size
    console.control(Control.home())
    console.print(Whole(Group(*picture(report, view, width, height))), end="", no_wrap=True)


def _printed(report: Report, limit: int) -> Any:
    """One picture of many, for a pipe."""
    from rich.console import Group
    from rich.text import Text

    from flask_dbopt.cli.panels import parts
    from flask_dbopt.cli.terminal import at

    head = Text(f"Flask-DBOpt {report.version}   {at(report.at)}   Ctrl-C stops", style="bold")
    return Group(head, Text(""), *parts(report, limit=limit))
