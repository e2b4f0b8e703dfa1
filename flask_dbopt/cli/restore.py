"""``flask db-opt restore``: back to an earlier state, live or into a file; also without an app."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flask_dbopt.audit.audit import Audit
from flask_dbopt.backup.restore import choose
from flask_dbopt.cli.target import backups_of, database, target
from flask_dbopt.cli.terminal import Screen, at, size, span, verb
from flask_dbopt.errors import RestoreError

if TYPE_CHECKING:
    from flask_dbopt.backup.backups import Backups
    from flask_dbopt.backup.repository import BackupRecord


@verb("restore")
@click.argument("identity", metavar="[ID|latest]", required=False)
@click.option("--at", "moment", metavar='"2026-11-22 14:05"', help="The newest backup taken by then (local time).")
@click.option("--undo", is_flag=True, help="Go back to the state before the last restore.")
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", help="Into a new file; the live database stays.")
@click.option("--dry-run", is_flag=True, help="Check the backup and say what would be done; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--database", "where", metavar="NAME|FILE", help="Which database; with --backup-dir, its file.")
@click.option(
    "--backup-dir",
    type=click.Path(path_type=Path),
    metavar="D",
    help="Folder of the backups; then no app is needed.",
)
def command(
    screen: Screen,
    identity: str | None,
    moment: str | None,
    undo: bool,
    to: Path | None,
    dry_run: bool,
    yes: bool,
    where: str | None,
    backup_dir: Path | None,
) -> None:
    """Restore a backup into the live database, in one transaction, while the app runs.

    A safety backup is taken first; --undo goes back to it. Readers see the old or the new state, nothing
    between.
    When the app itself does not start, say where things are:

    \b
        flask db-opt restore latest --database instance/app.db --backup-dir instance/backups
    """
    from flask_dbopt.report import as_dict

    if sum((identity is not None, moment is not None, undo)) != 1:
        raise click.UsageError('Say one of: a backup\'s ID, latest, --at "YYYY-MM-DD HH:MM", --undo.')
    backups, live = _open(where, backup_dir)
    if to is None and not backups.live:
        raise click.UsageError("Say where to: --to FILE, or the live file with --database FILE.")
    record = _chosen(backups.list(), identity, moment, undo)
    goal = str(to) if to else live
    screen.say(f"Backup   {record.id}, taken {at(record.taken_at)}, {size(record.source_bytes)}")
    screen.say(f"Proved   {at(record.verified_at)} {record.proof}" if record.verified_at else "Proved   never")
    screen.say(f"Into     {goal}{'' if to else ' (live; a safety backup is taken first)'}")
    if not dry_run and to is None:
        screen.confirm(f"Replace the content of {goal} by its state of {at(record.taken_at)}?", yes=yes)
    with screen.progress("Checking the backup" if dry_run else "Restoring"):
        done = backups.restore(record.id, to=to, dry_run=dry_run)
    screen.data({"dry_run": dry_run, **as_dict(done)})
    if dry_run:
        screen.say("Nothing was changed: --dry-run. The backup can be restored.", style="green")
        return
    screen.say(f"Restored in {span(done.seconds)}.", style="green")
    if done.safety is not None:
        screen.say(f"Way back: flask db-opt restore {done.safety.id}, or restore --undo")


def _open(where: str | None, folder: Path | None) -> tuple[Backups, str]:
    """The backups to restore from, and what is live, as a person names it; with or without an app."""
    if folder is None:
        one = database(target().optimizer, where)
        return backups_of(one), str(one.path)
    from flask_dbopt.backup.backups import open_folder
    from flask_dbopt.engines.sqlite.snapshotter import SQLiteSnapshotter

    file = Path(where or "none").absolute()
    audit = Audit(folder.absolute() / "audit.log")  # no app says where its own is
    window = SQLiteSnapshotter(file)
    return open_folder(folder, snapshotter=window, live=where is not None, emit=audit.emit), str(file)


def _chosen(records: tuple[BackupRecord, ...], identity: str | None, moment: str | None, undo: bool) -> BackupRecord:
    """The backup that is meant. Raises RestoreError when there is none such."""
    if not undo:
        return choose(records, _moment(moment) if moment is not None else identity or "latest")
    safeties = [one for one in records if one.kind == "safety"]
    if not safeties:
        raise RestoreError("there is no safety backup", hint="one is taken at each restore into the live database")
    return safeties[0]


def _moment(text: str) -> datetime:
    """A date with or without a time, in local time; without one, the end of that day."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise click.UsageError(f'{text!r} is no date; write "2026-11-22 14:05" or "2026-11-22".') from None
    if len(text.strip()) > len("2026-11-22"):
        return moment
    return moment.replace(hour=23, minute=59, second=59)
