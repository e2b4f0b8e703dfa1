"""``flask db-opt stats``: every figure at one moment, summed over all workers."""

from __future__ import annotations

import time

import click

from flask_dbopt.cli.terminal import Screen, how_many, length_of_time, verb


@verb("stats")
@click.option(
    "--since",
    callback=length_of_time,
    metavar="1h",
    help="Only the last 30s, 15m, 1h, 7d; else all that is kept.",
)
@how_many
@click.option("--reset", is_flag=True, help="Forget the figures kept so far, of all workers; asks first.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(screen: Screen, since: float | None, limit: int, reset: bool, yes: bool) -> None:
    """Requests, queries, cache, pool, backups and alerts, summed over all workers."""
    from flask_dbopt.cli.panels import parts
    from flask_dbopt.cli.target import target
    from flask_dbopt.report import as_dict, build

    optimizer = target().optimizer
    if reset:
        screen.confirm("Forget every figure kept so far?", yes=yes)
        optimizer.monitor.reset()
        screen.data({"reset": True})
        screen.say("The figures begin anew.")
        return
    now = time.time()
    report = build(optimizer, since=None if since is None else now - since, now=now)
    screen.data(as_dict(report))
    for part in parts(report, limit=limit):
        screen.show(part)
