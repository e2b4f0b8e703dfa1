"""Which backup a restore means, and where its database goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flask_dbopt.backup.repository import BackupRecord, sync_folder
from flask_dbopt.errors import RestoreError


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did; with ``dry_run`` what it would have done."""

    record: BackupRecord
    target: str
    """The file, or the live database's name."""
    safety: BackupRecord | None
    """The way back: the state just before. None for a restore to a file, and where there was no state."""
    seconds: float
    dry_run: bool = False
    faults: tuple[str, ...] = ()
    """What the engine finds wrong with it: the database was damaged already when it was backed up."""


def choose(records: Sequence[BackupRecord], wish: str | float | datetime) -> BackupRecord:
    """The backup that ``wish`` means: an id, "latest", or the newest one up to a time.

    A time is unix seconds, a datetime, or ISO text such as "2026-11-22 14:05"; without a zone it is local.
    "latest" and times pass over safety backups and over those whose last check failed.
    """
    for record in records:
        if record.id == wish:
            return record
    if not records:
        raise RestoreError("there is no backup yet", hint="take one with: flask db-opt backup")
    moment = None if wish == "latest" else _moment(wish)
    sound = [record for record in records if record.verified_at is not None or not record.proof]
    ordinary = [record for record in sound if record.kind != "safety"] or sound
    fitting = [record for record in ordinary if moment is None or record.taken_at <= moment]
    if fitting:
        return max(fitting, key=lambda record: (record.taken_at, record.txid))
    if not ordinary:
        raise RestoreError("no backup has passed its check", hint="name one by its id to try it all the same")
    first = min(record.taken_at for record in ordinary)
    raise RestoreError(f"no backup is as old as {wish}", hint=f"the oldest is of {_local(first)}")


def check_target(target: Path) -> None:
    """A restore to a file never overwrites."""
    if target.exists() or target.is_symlink():
        raise RestoreError(f"{target} exists", hint="name a new file, or restore into the live database without --to")
    if not target.parent.is_dir():
        raise RestoreError(f"there is no folder {target.parent}", hint="create it first")
    if not os.access(target.parent, os.W_OK):
        raise RestoreError(f"cannot write to {target.parent}", hint="choose a folder this user may write to")


def put(staged: Path, target: Path) -> None:
    """Give a finished, checked file its name, unless somebody took the name meanwhile."""
    try:
        try:
            os.link(staged, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            check_target(target)
            staged.rename(target)
    except FileExistsError:
        raise RestoreError(f"{target} exists by now", hint="name a new file") from None
    staged.unlink(missing_ok=True)
    sync_folder(target.parent)


def _moment(wish: str | float | datetime) -> float:
    if isinstance(wish, datetime):
        return wish.timestamp()
    if isinstance(wish, int | float):
        return float(wish)
    try:
        return datetime.fromisoformat(wish).timestamp()
    except ValueError:
        raise RestoreError(
            f"{wish!r} is neither a backup's id nor a time",
            hint='flask db-opt backups lists the ids; a time reads "2026-11-22 14:05"',
        ) from None


def _local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
