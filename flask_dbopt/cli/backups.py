"""``flask db-opt backups``: which there are; check them again; remove what retention no longer keeps."""

from __future__ import annotations

import time
from typing import Any

import click

from flask_dbopt.cli.target import backups_of, database, target
from flask_dbopt.cli.terminal import FINDING, FINE, Screen, ago, at, size, verb
from flask_dbopt.errors import BackupError, DBOptError


@verb("backups")
@click.option("--database", "name", metavar="NAME", help="Only this database; else all of them.")
@click.option(
    "--verify",
    "check",
    metavar="ID|all",
    help="Restore to scratch and check again; exits with 1 if one fails.",
)
@click.option("--prune", is_flag=True, help="Remove what DBOPT_BACKUP_RETENTION_DAYS no longer keeps.")
@click.option("--dry-run", is_flag=True, help="With --prune: only say what would go, and why.")
def command(screen: Screen, name: str | None, check: str | None, prune: bool, dry_run: bool) -> int:
    """The backups, newest first, and when each was last proved."""
    if dry_run and not prune:
        raise click.UsageError("--dry-run goes with --prune.")
    if check and prune:
        raise click.UsageError("--verify and --prune are two things; say one at a time.")
    optimizer = target().optimizer
    chosen = [database(optimizer, name)] if name else [one for one in optimizer.databases.values() if one.backups]
    if not chosen:
        raise DBOptError("there is no database with backups", hint="databases in memory and servers are not backed up")
    if check:
        return _verify(screen, {one.name: backups_of(one) for one in chosen}, check)
    if prune:
        return _prune(screen, {one.name: backups_of(one) for one in chosen}, dry_run)
    return _list(screen, {one.name: backups_of(one) for one in chosen})


def _list(screen: Screen, rooms: dict[str, Any]) -> int:
    from flask_dbopt.report import as_dict

    now = time.time()
    records = [record for backups in rooms.values() for record in backups.list()]
    screen.data({"backups": [as_dict(record) for record in records]})
    if not records:
        screen.say("There is no backup yet. Take one: flask db-opt backup")
        return FINE
    screen.table(
        ("Id", "Database", "Kind", "Taken", ">Size", ">Database was", "Proved", "Label"),
        [
            (
                one.id, one.database, one.kind, f"{at(one.taken_at)} ({ago(one.taken_at, now)})",
                size(one.bytes), size(one.source_bytes), ago(one.verified_at, now), one.label or "",
            )
            for one in records
        ],
    )  # fmt: skip
    return FINE


def _verify(screen: Screen, rooms: dict[str, Any], check: str) -> int:
    results: list[dict[str, Any]] = []
    asked = [
        (backups, record.id) for backups in rooms.values() for record in backups.list() if check in ("all", record.id)
    ]
    if not asked:
        raise DBOptError(
            "there is no backup yet" if check == "all" else f"there is no backup {check!r}",
            hint="flask db-opt backups lists them",
        )
    with screen.progress("Checking", total=len(asked)) as advance:
        for backups, identity in asked:
            try:
                record = backups.verify(identity, thorough=True)
                results.append({"id": identity, "whole": record.verified_at is not None, "proof": record.proof})
            except BackupError as error:
                results.append({"id": identity, "whole": False, "proof": str(error)})
            advance()
    screen.data({"verified": results})
    for one in results:
        screen.say(
            f"{one['id']}: {'whole' if one['whole'] else 'NOT WHOLE'}. {one['proof']}",
            style="green" if one["whole"] else "red",
        )
    return FINE if all(one["whole"] for one in results) else FINDING


def _prune(screen: Screen, rooms: dict[str, Any], dry_run: bool) -> int:
    from flask_dbopt.report import as_dict

    decisions = [decision for backups in rooms.values() for decision in backups.prune(dry_run=dry_run)]
    screen.data({"dry_run": dry_run, "decisions": [as_dict(decision) for decision in decisions]})
    gone = "would go" if dry_run else "removed"
    screen.table(
        ("Backup", "Decision", "Why"),
        [(one.point.id, "kept" if one.keep else gone, one.reason) for one in decisions],
    )
    return FINE
