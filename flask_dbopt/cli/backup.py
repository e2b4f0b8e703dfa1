"""``flask db-opt backup``: take one now, proved before it counts."""

from __future__ import annotations

import time
from typing import Any

import click

from flask_dbopt.cli.target import backups_of, database, target
from flask_dbopt.cli.terminal import Screen, at, size, span, verb
from flask_dbopt.errors import DBOptError


@verb("backup")
@click.option("--database", "name", metavar="NAME", help="Only this database; else all of them.")
@click.option("--full", is_flag=True, help="A whole snapshot, even where an increment would do.")
@click.option("--label", metavar="L", help="A word to know it by, such as before-migration.")
@click.option(
    "--if-due",
    is_flag=True,
    help="Only if the last one is older than DBOPT_BACKUP_INTERVAL_HOURS (for cron).",
)
@click.option("--no-verify", is_flag=True, help="Do not restore it to scratch and check it.")
def command(screen: Screen, name: str | None, full: bool, label: str | None, if_due: bool, no_verify: bool) -> None:
    """Take a backup while the database is used; it is restored to scratch and checked before it counts."""
    from flask_dbopt.report import as_dict

    optimizer = target().optimizer
    chosen = [database(optimizer, name)] if name else [one for one in optimizer.databases.values() if one.backups]
    if not chosen:
        raise DBOptError("there is no database to back up", hint="databases in memory and servers are not backed up")
    taken: list[Any] = []
    for one in chosen:
        backups = backups_of(one)
        if if_due and not backups.is_due(optimizer.settings.backup_interval_hours, time.time()):
            screen.say(f"{one.name}: not due yet (last: {at(backups.list()[0].taken_at)})")
            continue
        with screen.progress(f"Backing up {one.name}"):
            record = backups.take(full=full, label=label, verify=False if no_verify else None)
        taken.append(as_dict(record))
        screen.say(f"{one.name}: {record.id}", style="bold")
        screen.say(f"  {size(record.source_bytes)} in {size(record.bytes)}, {span(record.seconds)}; {record.path}")
        proof = record.proof or "it was restored to scratch and is whole"
        screen.say(
            f"  Proved: {proof}" if record.verified_at else "  Not proved",
            style=None if record.verified_at else "yellow",
        )
    screen.data({"backups": taken})
